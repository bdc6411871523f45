# The executables that people run: a crate each.
builtins.attrNames (builtins.readDir ../bins)
