# What a build reads, so that nothing else makes one necessary.
{ lib }:
lib.fileset.toSource {
  root = ../.;
  fileset = lib.fileset.unions [
    ../Cargo.toml
    ../Cargo.lock
    ../bins
    ../lib
    ../helper
    # Members of the workspace, without which cargo does not read it.
    ../tests/Cargo.toml
    ../tests/src
    ../xtask
    ../completions
    ../man
  ];
}
