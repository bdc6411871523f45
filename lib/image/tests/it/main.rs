//! Pulls and imports against a real registry server, a faulty one, and the kernel's own view of
//! the file systems that come out. Needs root for loop mounts, docker-registry, skopeo, e2fsprogs.

#![allow(clippy::unwrap_used)]

mod collect;
mod content;
mod faults;
mod import;
mod limits;
mod offline;
mod pull;
mod registry;
mod resume;
mod support;
mod together;
