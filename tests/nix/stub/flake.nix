{
  description = "A stand-in for nixpkgs, where that cannot be had: its real library, and packages of the host";

  # A test puts these beside it: `lib` of nixpkgs, and `host.json` with what was built.
  outputs =
    { self }:
    let
      lib = import ./lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs systems (
        system:
        import ./pkgs.nix {
          inherit lib system;
          host = lib.importJSON ./host.json;
        }
      );
    };
}
