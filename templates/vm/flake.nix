{
  description = "A NixOS host with a VM of its own";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
  # Where you have banger: a checkout, or the address of its repository.
  inputs.banger.url = "path:/etc/nixos/banger";
  inputs.banger.inputs.nixpkgs.follows = "nixpkgs";

  outputs =
    { nixpkgs, banger, ... }:
    {
      nixosConfigurations.host = nixpkgs.lib.nixosSystem {
        system = "x86_64-linux";
        modules = [
          banger.nixosModules.default
          ./vm.nix
          # Your own configuration.nix goes here.
        ];
      };
    };
}
