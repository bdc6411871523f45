# What developers need; `cargo xtask test` installs the rest on Debian, which its tests want.
{
  lib,
  mkShell,
  cargo,
  cargo-deny,
  clippy,
  e2fsprogs,
  erofs-utils,
  git,
  nftables,
  nixfmt,
  openssh,
  qemu_kvm,
  rustc,
  rustfmt,
  stdenv,
}:
mkShell {
  packages = [
    cargo
    cargo-deny
    clippy
    e2fsprogs
    erofs-utils
    git
    nftables
    nixfmt
    openssh
    qemu_kvm
    rustc
    rustfmt
  ];
  # The agent is linked statically.
  buildInputs = [ stdenv.cc.libc.static ];
  meta.platforms = lib.platforms.linux;
}
