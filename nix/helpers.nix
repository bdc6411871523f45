# What executables run: the agent, which is process 1 of any guest, the monitor, and the network's daemon.
# They are static, so that the agent takes nothing from a guest; see xtask/src/build.rs.
{
  lib,
  rustPlatform,
  stdenv,
}:
let
  helpers = [
    "banger-agent"
    "banger-monitor"
    "banger-netd"
  ];
in
rustPlatform.buildRustPackage {
  pname = "banger-helpers";
  version = (lib.importTOML ../Cargo.toml).workspace.package.version;
  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../Cargo.lock;

  buildType = "helper";
  cargoBuildFlags = lib.concatMap (name: [
    "--package"
    name
  ]) helpers;
  # cargo gets --target, so this does not reach build scripts and procedural macros.
  env.RUSTFLAGS = "-C target-feature=+crt-static";
  buildInputs = [ stdenv.cc.libc.static ];

  # They need guests, namespaces and root: `cargo xtask test`.
  doCheck = false;

  postInstall = ''
    mkdir -p $out/libexec/banger
    mv $out/bin/* $out/libexec/banger/
    rmdir $out/bin
  '';
  doInstallCheck = true;
  installCheckPhase = ''
    for helper in $out/libexec/banger/*; do
      if readelf --program-headers "$helper" | grep -q INTERP; then
        echo "$helper is not static" >&2
        exit 1
      fi
    done
  '';

  meta = {
    description = "Helpers of banger";
    license = lib.licenses.asl20;
    platforms = lib.platforms.linux;
  };
}
