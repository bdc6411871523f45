//! Kernel and root file system from the archive of the host distribution.
