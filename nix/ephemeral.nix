# A VM of a closure of this nixpkgs: the image, its kernel and the VMM all come from the Nix store. Nothing
# is left but the imported image and kernel, which the next run finds.
#
#     nix run .#ephemeral -- uname -a
{
  lib,
  writeShellApplication,
  banger,
  busybox,
  linuxPackages,
  stdenv,
  closure ? busybox,
}:
let
  inherit (linuxPackages) kernel;
  # Store paths are their own versions.
  version = path: builtins.substring 0 12 (baseNameOf (builtins.unsafeDiscardStringContext "${path}"));
  image = "nix/ephemeral:${version closure}";
  kernelName = "nix-${version kernel}";
  modules = "${lib.getOutput "modules" kernel}/lib/modules/${kernel.modDirVersion}";
  file = "${kernel}/${stdenv.hostPlatform.linux-kernel.target or "bzImage"}";
in
writeShellApplication {
  name = "banger-ephemeral";
  runtimeInputs = [ banger ];
  text = ''
    if [ $# -eq 0 ]; then
      set -- sh
    fi
    banger-image kernel show --quiet ${kernelName} > /dev/null 2>&1 ||
      banger-image kernel import --quiet --name ${kernelName} --modules ${modules} ${file} > /dev/null
    banger-image show --quiet ${image} > /dev/null 2>&1 ||
      banger-image import --quiet --name ${image} --nix ${closure} > /dev/null
    exec banger-vm run --kernel ${kernelName} ${image} -- "$@"
  '';
}
