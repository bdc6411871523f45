{
  description = "From an OCI image or a Nix closure to a running microVM, without root, without a daemon";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      perSystem = make: lib.genAttrs systems (system: make system nixpkgs.legacyPackages.${system});
      programs = import ./nix/programs.nix;
    in
    {
      packages = perSystem (
        _: pkgs:
        let
          banger = pkgs.callPackage ./nix/package.nix { };
        in
        {
          inherit banger;
          default = banger;
        }
        // lib.genAttrs (lib.remove "banger" programs) (
          program: pkgs.callPackage ./nix/program.nix { inherit banger program; }
        )
      );

      overlays.default = final: _previous: {
        banger = final.callPackage ./nix/package.nix { };
      };

      apps = perSystem (
        system: pkgs:
        let
          inherit (self.packages.${system}) banger;
          app = description: program: {
            type = "app";
            inherit program;
            meta = { inherit description; };
          };
          short = program: lib.removePrefix "banger-" program;
        in
        {
          default = self.apps.${system}.banger;
          ephemeral = app "Boot a closure of this nixpkgs; nothing comes from a registry" (
            lib.getExe (pkgs.callPackage ./nix/ephemeral.nix { inherit banger; })
          );
        }
        // lib.listToAttrs (
          map (
            program: lib.nameValuePair (short program) (app "Run ${program}" "${banger}/bin/${program}")
          ) programs
        )
      );

      checks = perSystem (
        system: pkgs:
        import ./nix/checks.nix {
          inherit pkgs self;
          inherit (self.packages.${system}) banger;
        }
      );

      devShells = perSystem (
        _: pkgs: { default = pkgs.callPackage ./nix/shell.nix { }; }
      );

      formatter = perSystem (_: pkgs: pkgs.nixfmt);

      # Without the overlay: machines whose nixpkgs is given to them, as in tests of NixOS, take none. The module makes
      # the package itself where there is none.
      nixosModules.default.imports = [ ./nixos-module ];

      templates.default = {
        path = ./templates/vm;
        description = "A NixOS host with a declarative VM";
      };
    };
}
