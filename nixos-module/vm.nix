# What a declarative VM is made of. `settings` has what has no option here.
{ lib, toml }:
let
  inherit (lib) mkOption types;
  size = types.strMatching "[0-9]+[KMGT]?";
in
{
  image = mkOption {
    type = types.nullOr (types.either types.package types.str);
    default = null;
    example = "debian:12";
    description = ''
      A reference of a registry, which is pulled when it is not there; a package, or the `toplevel` of a NixOS
      configuration, whose closure becomes the image; by default the image of `services.banger.settings.default`.
    '';
  };
  command = mkOption {
    type = types.listOf types.str;
    default = [ ];
    example = [
      "sleep"
      "infinity"
    ];
    description = "What runs in it from each start on; by default what the image says.";
  };
  cpus = mkOption {
    type = types.nullOr types.ints.positive;
    default = null;
    example = 2;
    description = "Virtual processors; by default as in `services.banger.settings.vm`.";
  };
  memory = mkOption {
    type = types.nullOr size;
    default = null;
    example = "2G";
    description = "Memory; by default as in `services.banger.settings.vm`.";
  };
  disk = mkOption {
    type = types.nullOr size;
    default = null;
    example = "40G";
    description = "Largest size of its own disk, which only grows.";
  };
  network = mkOption {
    type = types.nullOr (
      types.enum [
        "bridge"
        "user"
        "none"
      ]
    );
    default = null;
    example = "bridge";
    description = ''
      An address of its own on the bridge, the network of its own process, or none; by default the bridge with a
      way out, where banger-netd answers.
    '';
  };
  ports = mkOption {
    # Looked at by an assertion, which can say more than a type.
    type = types.listOf types.str;
    default = [ ];
    example = [ "8080:80" ];
    description = ''
      TCP ports of the host that lead to it, as `[ADDRESS:]HOSTPORT:GUESTPORT`, on 127.0.0.1 without an address.
    '';
  };
  workspace = mkOption {
    type = types.nullOr types.path;
    default = null;
    example = "/srv/app";
    description = ''
      A git repository of this host that is prepared in the guest when it has started. It belongs to the user `banger`,
      or `programs.git.config.safe.directory` names it, for git takes nobody else's. When it cannot be prepared, the
      journal says why, and the VM runs all the same. Changes come back by `banger-system ws export`.
    '';
  };
  autostart = mkOption {
    type = types.bool;
    default = true;
    example = false;
    description = "Start it with the machine; else by `systemctl start banger-vm@NAME`.";
  };
  settings = mkOption {
    type = toml.type;
    default = { };
    example = {
      volume = [ "data:/var/lib/postgresql" ];
      idle-stop = "2h";
    };
    description = "Further long flags of `banger-vm create`, without their dashes.";
  };
}
