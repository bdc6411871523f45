# `nix flake check`. Those that boot machines want nixpkgs itself, so they do not run where only registries of
# packages are reachable; there `cargo xtask test` evaluates them, and tests the same by other means.
{
  pkgs,
  self,
  banger,
}:
let
  inherit (pkgs) lib;
in
{
  package = banger;

  # Crates whose tests need neither programs of the host nor guests.
  unit-tests = banger.overrideAttrs {
    pname = "banger-unit-tests";
    doCheck = true;
    cargoTestFlags = [
      "--package"
      "lib-model"
      "--package"
      "lib-config"
      "--package"
      "lib-store"
      "--package"
      "banger-proto"
      "--package"
      "banger-wire"
    ];
  };

  formatting =
    pkgs.runCommand "banger-formatting"
      {
        nativeBuildInputs = [ pkgs.nixfmt ];
        files = lib.sourceFilesBySuffices ../. [ ".nix" ];
      }
      ''
        find $files -name '*.nix' -exec nixfmt --check {} +
        touch $out
      '';
}
// lib.optionalAttrs pkgs.stdenv.hostPlatform.isx86_64 {
  nixos = pkgs.testers.runNixOSTest (import ../nixos-module/test.nix { module = self.nixosModules.default; });
}
