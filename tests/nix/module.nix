# The module, evaluated with nixpkgs' real module system, its real types of systemd's units and its real users and
# groups. Options of other modules that it sets exist here too, without their effects.
#
# `cases` are configurations by name; the result has, for each, the failed assertions and all files it makes.
{
  library,
  stub,
  banger,
  cases,
  system ? "x86_64-linux",
}:
let
  # What was there in 2022, when the modules were written, and is not any more.
  lib = import (library + "/lib") // {
    mdDoc = text: text;
  };
  host = lib.importJSON (stub + "/host.json");
  stubPkgs = import (stub + "/pkgs.nix") { inherit lib system host; };
  pkgs = stubPkgs // {
    banger = pkgs.callPackage (banger + "/nix/package.nix") { };
  };
  nixos = library + "/nixpkgs/nixos";

  others =
    { lib, ... }:
    let
      any = lib.mkOption {
        type = lib.types.anything;
        default = { };
      };
      list = lib.mkOption {
        type = lib.types.listOf lib.types.anything;
        default = [ ];
      };
    in
    {
      options = {
        boot.kernelModules = list;
        environment.systemPackages = list;
        environment.pathsToLink = list;
        environment.etc = any;
        networking.firewall.allowedTCPPorts = list;
        networking.firewall.interfaces = any;
        networking.networkmanager.unmanaged = list;
        networking.dhcpcd.denyInterfaces = list;
        nix.package = any;
        services.resolved.enable = lib.mkEnableOption "resolved";
        systemd.network.networks = any;
        systemd.packages = list;
        systemd.tmpfiles.rules = list;
        users.users = any;
        users.groups = any;
      };
      config.nix.package = pkgs.coreutils;
    };

  units =
    { config, lib, ... }:
    let
      utils = import (nixos + "/lib/utils.nix") { inherit lib config pkgs; };
      inherit (utils.systemdUtils) types;
      writers = utils.systemdUtils.lib;
      option =
        type:
        lib.mkOption {
          inherit type;
          default = { };
        };
      texts =
        kind: toUnit:
        lib.mapAttrs' (
          name: unit:
          lib.nameValuePair "${name}.${kind}" {
            inherit (toUnit name unit) text wantedBy overrideStrategy;
          }
        ) config.systemd.${kind + "s"};
    in
    {
      options.systemd = {
        services = option types.services;
        sockets = option types.sockets;
        timers = option types.timers;
        package = option lib.types.anything;
        globalEnvironment = option (lib.types.attrsOf lib.types.str);
        texts = option lib.types.anything;
      };
      config.systemd.package = pkgs.systemd;
      config.systemd.texts =
        texts "service" writers.serviceToUnit
        // texts "socket" writers.socketToUnit
        // texts "timer" writers.timerToUnit;
    };

  evaluate =
    configuration:
    (lib.evalModules {
      specialArgs = { inherit pkgs; };
      modules = [
        (nixos + "/modules/misc/assertions.nix")
        others
        units
        (banger + "/nixos-module")
        configuration
      ];
    }).config;

  report = configuration: {
    failed = map (check: check.message) (lib.filter (check: !check.assertion) configuration.assertions);
    units = configuration.systemd.texts;
    etc = lib.mapAttrs (_: file: "${file.source}") configuration.environment.etc;
    firewall = configuration.networking.firewall.allowedTCPPorts;
    modules = configuration.boot.kernelModules;
    groups = configuration.users.groups;
    links = configuration.environment.pathsToLink;
    programs = map (package: "${package}") configuration.environment.systemPackages;
    inherit (configuration.systemd) packages;
    inherit (configuration) warnings;
  };
in
lib.mapAttrs (_: configuration: report (evaluate configuration)) cases
