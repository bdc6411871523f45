# A NixOS machine with the module, in a VM of its own; needs nixpkgs and its binary cache.
{ module }:
{ pkgs, ... }:
{
  name = "banger";

  nodes.machine = {
    imports = [ module ];
    virtualisation.memorySize = 3072;
    virtualisation.diskSize = 8192;
    users.users.ann.isNormalUser = true;
    services.banger = {
      enable = true;
      users = [ "ann" ];
      settings.vm.memory = "512M";
      vms.box = {
        image = pkgs.pkgsStatic.busybox;
        command = [
          "sleep"
          "infinity"
        ];
        ports = [ "8080:80" ];
        autostart = false;
      };
    };
    # What a rebuild changes, and the means to do it, which machines of tests have not by themselves.
    system.switch.enable = true;
    specialisation.changed.configuration.services.banger.vms.box.memory = "300M";
  };

  testScript = ''
    machine.wait_for_unit("sockets.target")

    with subtest("the daemon starts when it is asked, and its user is let in"):
        machine.fail("systemctl is-active banger-netd.service")
        machine.succeed("su - ann -c 'banger-net up'")
        machine.succeed("systemctl is-active banger-netd.service")
        machine.succeed("ip link show banger0")

    with subtest("settings count for everybody"):
        machine.succeed("su - ann -c 'banger config show --origin --toml' | grep -F 'memory = \"512M\"'")

    with subtest("a declarative VM boots and can be controlled"):
        machine.succeed("systemctl start banger-vm@box")
        machine.succeed("banger-system vm list --format ids")
        machine.succeed("banger-system vm exec box -- true")

    with subtest("a rebuild leaves it alone"):
        before = machine.succeed("systemctl show -P MainPID banger-vm@box")
        said = machine.succeed("/run/current-system/specialisation/changed/bin/switch-to-configuration test 2>&1")
        assert "NOT restarting" in said and "banger-vm@box" in said, said
        assert before == machine.succeed("systemctl show -P MainPID banger-vm@box")

    with subtest("it shuts down with its unit"):
        machine.succeed("systemctl stop banger-vm@box")
        machine.succeed("banger-system vm list --json | grep -F '\"state\":\"stopped\"'")
  '';
}
