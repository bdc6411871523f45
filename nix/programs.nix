# The executables that people run; a test compares them with xtask/src/build.rs.
[
  "banger"
  "banger-image"
  "banger-net"
  "banger-vm"
  "banger-ws"
]
