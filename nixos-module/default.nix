# services.banger: the network's daemon, names, the machine's own VMs, and settings for everybody's.
#
# Units come from the package, so that they are the same on every distribution (bins/banger/systemd,
# helper/netd/systemd); here is only what differs.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkEnableOption
    mkIf
    mkMerge
    mkOption
    types
    ;

  cfg = config.services.banger;
  toml = pkgs.formats.toml { };

  checks = import ./checks.nix { inherit lib; };
  vmOptions = import ./vm.nix { inherit lib toml; };
  settingOptions = import ./settings.nix { inherit lib; };

  # What is not set is not written: then the commands' own defaults count.
  written =
    value:
    if builtins.isAttrs value && !(lib.isDerivation value) then
      lib.filterAttrs (_: inner: inner != null && inner != { } && inner != [ ]) (
        lib.mapAttrs (_: written) value
      )
    else
      value;

  # banger itself says whether it would take the file, at build time, with the nearest key to a slip.
  configFile =
    pkgs.runCommand "banger-config.toml"
      {
        file = toml.generate "banger-config-unchecked.toml" (written cfg.settings);
      }
      ''
        ${lib.optionalString (pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform) ''
          BANGER_CONFIG=$file ${cfg.package}/bin/banger config show --json > /dev/null
        ''}
        cp $file $out
      '';

  hasImage = vm: lib.isDerivation vm.image || (vm.image != null && lib.hasPrefix "/nix/store/" vm.image);
  # A store path's own hash names the image, so that another path is another image.
  imageName =
    vm:
    if hasImage vm then
      "nix/${builtins.substring 0 32 (baseNameOf (builtins.unsafeDiscardStringContext "${vm.image}"))}"
    else
      vm.image;

  description =
    name: vm:
    toml.generate "${name}.toml" (
      written (
        vm.settings
        // {
          image = imageName vm;
          inherit (vm)
            command
            cpus
            memory
            disk
            network
            ;
          publish = vm.ports;
        }
        // lib.optionalAttrs (cfg.guestKernel != null) { kernel = kernelName; }
      )
    );

  kernel = cfg.guestKernel;
  kernelName = "nixos-${kernel.modDirVersion}";

  vmUnit = name: vm: {
    # A drop-in for banger-vm@.service.
    overrideStrategy = "asDropin";
    wantedBy = lib.optional vm.autostart "multi-user.target";
    requires = lib.optional (kernel != null) "banger-kernel.service";
    after = lib.optional (kernel != null) "banger-kernel.service";
    # A rebuild says "NOT restarting the following changed units", and leaves the guest alone.
    restartIfChanged = false;
    stopIfChanged = false;
    restartTriggers = [ (description name vm) ];
    serviceConfig.ExecStartPre = lib.optional (hasImage vm) (
      pkgs.writeShellScript "banger-image-${name}" ''
        ${cfg.package}/bin/banger-image show --quiet ${imageName vm} > /dev/null 2>&1 ||
          exec ${cfg.package}/bin/banger-image import --quiet --name ${imageName vm} --nix ${vm.image}
      ''
    );
    # A VM whose workspace cannot be prepared, since both sides changed a file, say, is not shut down for that.
    serviceConfig.ExecStartPost = lib.optional (vm.workspace != null) (
      "-${cfg.package}/bin/banger-ws prepare --quiet ${name} ${lib.escapeShellArg vm.workspace}"
    );
    path = [ config.nix.package ];
  };

  netd =
    lib.escapeShellArgs [
      "${cfg.package}/libexec/banger/banger-netd"
      "--allow-group"
      "banger"
      "--bridge"
      cfg.networking.bridge
      "--pool"
      cfg.networking.pool
      "--nft"
      "${pkgs.nftables}/bin/nft"
    ]
    # What drop-ins offer, as in the unit.
    + " $DISKS $JAILS";

  # The drop-ins are the same on every distribution; each says what it opens, and why.
  offered = pkgs.runCommand "banger-netd-offers" { } (
    "mkdir -p $out/lib/systemd/system/banger-netd.service.d\n"
    + lib.concatMapStrings (offer: ''
      cp ${../helper/netd/systemd + "/${offer}.conf"} $out/lib/systemd/system/banger-netd.service.d/${offer}.conf
    '') cfg.networking.offer
  );

  # The first address of the pool is the host's.
  gateway =
    let
      parts = lib.splitString "." (lib.head (lib.splitString "/" cfg.networking.pool));
    in
    lib.concatStringsSep "." (
      lib.init parts ++ [ (toString (lib.toIntBase10 (lib.last parts) + 1)) ]
    );
  guestsAddress = "${gateway}:53";

  tmpfiles = lib.filter (line: line != "") (
    lib.splitString "\n" (builtins.readFile ../bins/banger/systemd/tmpfiles.conf)
  );

  # For root: the machine's own VMs, by the same commands.
  system = pkgs.writeShellScriptBin "banger-system" ''
    exec ${pkgs.util-linux}/bin/runuser --user banger -- ${pkgs.coreutils}/bin/env \
      BANGER_STORE=/var/lib/banger/store BANGER_RUNTIME_DIR=/run/banger/vms \
      ${cfg.package}/bin/banger "$@"
  '';
in
{
  options.services.banger = {
    enable = mkEnableOption "banger, images and microVMs";

    package = mkOption {
      type = types.package;
      default = pkgs.banger or (pkgs.callPackage ../nix/package.nix { });
      defaultText = lib.literalExpression "pkgs.banger";
      description = "The package with the executables, the helpers and the units.";
    };

    settings = mkOption {
      type = types.submodule {
        freeformType = toml.type;
        options = settingOptions;
      };
      default = { };
      example = lib.literalExpression ''
        {
          vm.memory = "4G";
          registry.mirrors."docker.io" = [ "mirror.example:5000" ];
        }
      '';
      description = ''
        /etc/banger/config.toml, which counts for everybody's VMs, below a user's own file. `banger config show
        --origin` says what is in force. The build fails on a key that banger does not know.
      '';
    };

    users = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "ann" ];
      description = ''
        Who may give VMs addresses on the bridge: members of the group `banger`. Everything else needs no rights.
      '';
    };

    guestKernel = mkOption {
      type = types.nullOr types.package;
      default = pkgs.linuxPackages.kernel;
      defaultText = lib.literalExpression "pkgs.linuxPackages.kernel";
      description = ''
        The kernel of declarative VMs whose own settings name none. Without one, what the store of the machine has.
      '';
    };

    networking = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = ''
          The bridge network, by banger-netd, which systemd starts when somebody asks for it. Without it, VMs have
          the network of their own process.
        '';
      };
      bridge = mkOption {
        type = types.strMatching "[a-z][a-z0-9-]{0,14}";
        default = "banger0";
        example = "vms0";
        description = "Name of the bridge.";
      };
      pool = mkOption {
        type = types.strMatching "([0-9]{1,3}\\.){3}[0-9]{1,3}/[0-9]{1,2}";
        default = "10.83.0.0/16";
        example = "192.168.83.0/24";
        description = "Addresses of VMs. The first one is the host's; banger-netd chooses the others.";
      };
      offer = mkOption {
        type = types.listOf (
          types.enum [
            "disks"
            "jails"
          ]
        );
        default = [ ];
        example = [ "disks" ];
        description = ''
          What banger-netd does for its users beyond the network: block devices of files that they pass (`disks`), VMMs
          in jails (`jails`). Either gives the daemon more rights on this host, above all CAP_SYS_ADMIN.
        '';
      };
      dns = {
        enable = mkOption {
          type = types.bool;
          default = true;
          example = false;
          description = ''
            Names of VMs (`dev.vm`) for this host, and a resolver for guests on the bridge, where there is a bridge.
          '';
        };
        route = mkOption {
          type = types.bool;
          default = config.services.resolved.enable;
          defaultText = lib.literalExpression "config.services.resolved.enable";
          description = ''
            Have systemd-resolved ask it for `vm`, and for nothing else. Others are told by hand: it answers at
            127.83.0.53.
          '';
        };
      };
      openFirewall = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = ''
          Let others reach the ports that declarative VMs publish on addresses other than loopback.
        '';
      };
    };

    reconcile = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Mend now and then what crashes left of the machine's own VMs.";
      };
      interval = mkOption {
        type = types.str;
        default = "1h";
        example = "1d";
        description = "How long after the last time, as in systemd.time(7).";
      };
    };

    vms = mkOption {
      type = types.attrsOf (types.submodule { options = vmOptions; });
      default = { };
      example = lib.literalExpression ''
        {
          web = {
            image = "nginx:1";
            ports = [ "8080:80" ];
            memory = "512M";
          };
        }
      '';
      description = ''
        VMs of the machine, in a store of the user `banger`. Each is a unit, `banger-vm@NAME`, which a rebuild
        never restarts: it says that the unit has changed, and `systemctl restart banger-vm@NAME` applies it. A VM
        that is taken out of the configuration is shut down; its disk stays until
        `banger-system vm delete NAME`.
      '';
    };
  };

  config = mkIf cfg.enable (mkMerge [
    {
      assertions = checks {
        inherit cfg;
        inherit (pkgs.stdenv) hostPlatform;
        resolved = config.services.resolved.enable;
      };

      environment.systemPackages = [
        cfg.package
        system
      ];
      # The package's completions ask the store for names; shells find them below /share.
      environment.pathsToLink = [
        "/share/bash-completion"
        "/share/zsh"
        "/share/fish"
      ];
      environment.etc = {
        "banger/config.toml".source = configFile;
      }
      // lib.mapAttrs' (
        name: vm: lib.nameValuePair "banger/vms/${name}.toml" { source = description name vm; }
      ) cfg.vms;

      users.groups.banger.members = cfg.users;
      users.users.banger = {
        isSystemUser = true;
        group = "banger";
        extraGroups = [ "kvm" ];
        home = "/var/lib/banger";
        description = "VMs of the machine";
      };

      systemd.packages = [ cfg.package ];
      systemd.tmpfiles.rules = tmpfiles;
      systemd.services = lib.mapAttrs' (
        name: vm: lib.nameValuePair "banger-vm@${name}" (vmUnit name vm)
      ) cfg.vms;
    }

    (mkIf (kernel != null && cfg.vms != { }) {
      systemd.services.banger-kernel = {
        description = "Kernel of banger's declarative VMs";
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          User = "banger";
          Group = "banger";
          Environment = [
            "BANGER_STORE=/var/lib/banger/store"
            "BANGER_RUNTIME_DIR=/run/banger/vms"
          ];
          ExecStart = pkgs.writeShellScript "banger-kernel" ''
            ${cfg.package}/bin/banger-image kernel show --quiet ${kernelName} > /dev/null 2>&1 ||
              exec ${cfg.package}/bin/banger-image kernel import --quiet --name ${kernelName} \
                --modules ${lib.getOutput "modules" kernel}/lib/modules/${kernel.modDirVersion} \
                ${kernel}/${pkgs.stdenv.hostPlatform.linux-kernel.target or "bzImage"}
          '';
          UMask = "0077";
          ReadWritePaths = "/var/lib/banger/store";
          NoNewPrivileges = true;
          CapabilityBoundingSet = "";
          ProtectSystem = "strict";
          ProtectHome = true;
          PrivateTmp = true;
          PrivateDevices = true;
          PrivateNetwork = true;
          ProtectKernelTunables = true;
          ProtectKernelModules = true;
          ProtectControlGroups = true;
          RestrictSUIDSGID = true;
          LockPersonality = true;
          SystemCallArchitectures = "native";
          SystemCallFilter = "@system-service";
        };
      };
    })

    (mkIf cfg.reconcile.enable {
      systemd.timers.banger-reconcile = {
        wantedBy = [ "timers.target" ];
        timerConfig.OnUnitInactiveSec = [
          ""
          cfg.reconcile.interval
        ];
      };
    })

    (mkIf cfg.networking.enable {
      boot.kernelModules = [
        "tun"
        "bridge"
        "nf_tables"
      ]
      ++ lib.optionals (lib.elem "disks" cfg.networking.offer) [
        "loop"
        "dm_mod"
      ];
      systemd.packages = lib.optional (cfg.networking.offer != [ ]) offered;
      systemd.sockets.banger-netd.wantedBy = [ "sockets.target" ];
      systemd.services.banger-netd = {
        # Its restart touches no VM, and callers wait at the socket.
        restartTriggers = [ netd ] ++ lib.optional (cfg.networking.offer != [ ]) offered;
        serviceConfig.ExecStart = [
          ""
          netd
        ];
      };

      # Others leave the bridge and the interfaces of VMs alone.
      networking.networkmanager.unmanaged = [
        "interface-name:${cfg.networking.bridge}"
        "interface-name:bgt*"
      ];
      networking.dhcpcd.denyInterfaces = [
        cfg.networking.bridge
        "bgt*"
      ];
      systemd.network.networks."70-banger" = {
        matchConfig.Name = "${cfg.networking.bridge} bgt*";
        linkConfig.Unmanaged = true;
      };
    })

    (mkIf (cfg.networking.enable && cfg.networking.dns.enable) {
      systemd.sockets.banger-dns.wantedBy = [ "sockets.target" ];
      systemd.sockets.banger-dns-guests = {
        wantedBy = [ "sockets.target" ];
        socketConfig = {
          # What the unit has first, and then the pool's.
          ListenDatagram = [
            ""
            guestsAddress
          ];
          ListenStream = [ guestsAddress ];
        };
      };
      systemd.services.banger-dns-route = mkIf cfg.networking.dns.route {
        wantedBy = [ "multi-user.target" ];
      };
      # Guests may ask; banger-netd's own rules let nothing else of them in.
      networking.firewall.interfaces.${cfg.networking.bridge} = {
        allowedUDPPorts = [ 53 ];
        allowedTCPPorts = [ 53 ];
      };
    })

    (mkIf cfg.networking.openFirewall {
      networking.firewall.allowedTCPPorts = lib.concatMap (
        vm: map (port: port.hostPort) (lib.filter (port: !port.loopback) (map checks.port vm.ports))
      ) (lib.attrValues cfg.vms);
    })
  ]);
}
