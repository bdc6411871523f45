{
  services.banger = {
    enable = true;
    # Who may give VMs addresses on the bridge.
    users = [ ];

    vms.web = {
      image = "nginx:1";
      memory = "512M";
      # http://127.0.0.1:8080 leads to it.
      ports = [ "8080:80" ];
    };
  };
}
