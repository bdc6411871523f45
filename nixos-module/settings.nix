# The settings of lib/config, typed; a test compares the keys. Others are passed on as they are.
{ lib }:
let
  inherit (lib) mkOption types;
  optional =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit example description;
    };
  list =
    type: example: description:
    mkOption {
      type = types.listOf type;
      default = [ ];
      inherit example description;
    };
  size = types.either types.ints.positive (types.strMatching "[0-9]+[KMGT]?");
in
{
  default = {
    image =
      optional types.str "debian:12"
        "The image used when none is named; `host` is the host's own distribution.";
    kernel = optional types.str "6.12.48" "The kernel used when none is named, by name.";
  };
  vm = {
    cpus = optional types.ints.positive 2 "Virtual processors of new VMs.";
    memory = optional size "4G" "Memory of new VMs.";
    disk = optional size "40G" "Largest size of a new VM's own disk.";
    network = optional (types.enum [
      "bridge"
      "user"
      "none"
    ]) "user" "Network of new VMs.";
    accel = optional (types.enum [
      "auto"
      "kvm"
      "tcg"
    ]) "kvm" "What new VMs run on.";
    authorized-keys = list types.str [
      "ssh-ed25519 AAAA… ann"
    ] "Public keys, or absolute paths of files of keys, that may log in by SSH beside the store's own.";
    file-sync = list types.str [
      "~/.gitconfig"
    ] "Files and directories of the home that VMs get at their start: `~/path`, or `~/path:` and a path in the guest.";
    mount-roots = list types.path [
      "/srv"
    ] "Directories below which guests may be shown some; empty: wherever they are the user's.";
    proxy = optional types.str "http://proxy.example:3128" "Proxy for what runs in guests.";
  };
  registry = {
    mirrors = mkOption {
      type = types.attrsOf (types.listOf types.str);
      default = { };
      example = {
        "docker.io" = [ "mirror.example:5000" ];
      };
      description = "What is asked before a registry, in order.";
    };
    plain-http = list types.str [
      "registry.example:5000"
    ] "Registries that speak plain HTTP, beside those on loopback.";
    ca-files = list types.path [
      "/etc/ssl/own.pem"
    ] "Certificates of authorities to trust beside the system's.";
    credential-files = list types.path [
      "/run/secrets/registry.json"
    ] "Files with credentials in docker's form; not from the Nix store, which everybody reads.";
  };
  limits = {
    download = optional size "20G" "Compressed bytes of all layers of an image together.";
    unpacked = optional size "100G" "Unpacked bytes of all layers of an image together.";
    entries = optional types.ints.positive 5000000 "Entries of all layers of an image together.";
    ratio = optional types.ints.positive 1000 "Unpacked bytes for each compressed one, in one layer.";
  };
}
