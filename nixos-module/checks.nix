# What no type can say, as assertions with what to do. `tests/tests/nix_module.rs` has one case for each.
{ lib }:
let
  # `[ADDRESS:]HOSTPORT:GUESTPORT`; null for anything else.
  port =
    text:
    let
      parts = builtins.match "(\\[[0-9a-fA-F:]+]:|[0-9.]+:)?([0-9]{1,5}):([0-9]{1,5})(/tcp)?" text;
      address = if lib.head parts == null then "127.0.0.1" else lib.removeSuffix ":" (lib.head parts);
      number = at: lib.toIntBase10 (lib.elemAt parts at);
    in
    if parts == null then
      null
    else
      {
        inherit address;
        hostPort = number 1;
        guestPort = number 2;
        loopback = lib.hasPrefix "127." address || address == "[::1]";
      };

  # Keys of the file that the module writes from options.
  own = [
    "image"
    "command"
    "cpus"
    "memory"
    "disk"
    "network"
    "publish"
  ];

  label = name: builtins.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" name != null;
in
{
  __functor =
    _:
    {
      cfg,
      hostPlatform,
      resolved,
    }:
    let
      vms = lib.mapAttrsToList (name: vm: vm // { inherit name; }) cfg.vms;
      bridged = lib.filter (vm: vm.network == "bridge") vms;
      ports = lib.concatMap (
        vm:
        map (text: {
          vm = vm.name;
          inherit text;
          parsed = port text;
        }) vm.ports
      ) vms;
      whole = lib.filter (entry: entry.parsed != null && entry.parsed.hostPort != 0) ports;
      # Any address is also every single one.
      clash =
        one: other:
        one.parsed.hostPort == other.parsed.hostPort
        && (
          one.parsed.address == other.parsed.address
          || one.parsed.address == "0.0.0.0"
          || other.parsed.address == "0.0.0.0"
        );
      numbered = lib.imap0 (number: entry: entry // { inherit number; }) whole;
      clashes = lib.concatMap (
        one: map (other: { inherit one other; }) (lib.filter (other: one.number < other.number && clash one other) numbered)
      ) numbered;
    in
    map (vm: {
      assertion = label vm.name;
      message = ''
        services.banger.vms."${vm.name}": the name of a VM is a DNS label: up to 63 small letters, digits and
        hyphens, with a letter or digit at both ends.
      '';
    }) vms
    ++ map (entry: {
      assertion = entry.parsed != null && entry.parsed.hostPort < 65536 && entry.parsed.guestPort < 65536 && entry.parsed.guestPort > 0;
      message = ''
        services.banger.vms.${entry.vm}.ports: "${entry.text}" is not of the form [ADDRESS:]HOSTPORT:GUESTPORT,
        such as "8080:80" or "0.0.0.0:443:443".
      '';
    }) ports
    ++ map (pair: {
      assertion = false;
      message = ''
        services.banger.vms: ${pair.one.vm} ("${pair.one.text}") and ${pair.other.vm} ("${pair.other.text}") publish the
        same address and port of this host. Give one of them another port, or the port 0 for any that is free.
      '';
    }) clashes
    ++ map (vm: {
      assertion = cfg.networking.enable;
      message = ''
        services.banger.vms.${vm.name}.network is "bridge", but services.banger.networking.enable is false. Enable
        it, or choose the network "user".
      '';
    }) bridged
    ++ map (vm: {
      assertion = !(vm.network == "none" && vm.settings ? nat && vm.settings.nat);
      message = ''
        services.banger.vms.${vm.name} has no network, so that `settings.nat` means nothing. Choose the network
        "bridge", or take `nat` away.
      '';
    }) vms
    ++ map (vm: {
      assertion = lib.intersectLists (lib.attrNames vm.settings) own == [ ];
      message = ''
        services.banger.vms.${vm.name}.settings has what has options of its own: ${lib.concatStringsSep ", " (lib.intersectLists (lib.attrNames vm.settings) own)}.
        Use services.banger.vms.${vm.name}.{cpus,memory,disk,network,ports,image,command} instead.
      '';
    }) vms
    ++ [
      {
        assertion = !(cfg.settings.vm.network == "bridge" && !cfg.networking.enable);
        message = ''
          services.banger.settings.vm.network is "bridge", but services.banger.networking.enable is false: every new VM
          would fail. Enable it, or choose the network "user".
        '';
      }
      {
        assertion = !(cfg.networking.enable && cfg.networking.dns.enable && cfg.networking.dns.route && !resolved);
        message = ''
          services.banger.networking.dns.route tells systemd-resolved, which is not enabled here. Set
          services.resolved.enable, or leave the route away and send questions for `vm` to 127.83.0.53 by hand.
        '';
      }
      {
        assertion = cfg.vms == { } || hostPlatform.isx86_64;
        message = ''
          services.banger.vms: banger's VMs are x86_64, and this system is ${hostPlatform.system}. Images can be
          prepared on it all the same: leave services.banger.vms empty.
        '';
      }
    ];

  inherit port;
}
