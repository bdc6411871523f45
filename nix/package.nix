# All executables with their helpers, manual, completions and units.
#
#     pkgs.callPackage ./nix/package.nix { }
{
  lib,
  callPackage,
  rustPlatform,
  installShellFiles,
  makeWrapper,
  e2fsprogs,
  erofs-utils,
  git,
  nftables,
  openssh,
  qemu_kvm,
  helpers ? callPackage ./helpers.nix { },
}:
let
  programs = import ./programs.nix;
  # Found on PATH otherwise; what the user has in front does not count, so that a VM runs the same everywhere.
  tools = [
    e2fsprogs
    erofs-utils
    git
    nftables
    openssh
    qemu_kvm
  ];
in
rustPlatform.buildRustPackage {
  pname = "banger";
  version = (lib.importTOML ../Cargo.toml).workspace.package.version;
  src = import ./source.nix { inherit lib; };
  cargoLock.lockFile = ../Cargo.lock;

  cargoBuildFlags = lib.concatMap (name: [
    "--package"
    name
  ]) programs;
  # They need registries, guests and root: `cargo xtask test`. What needs neither is in the flake's checks.
  doCheck = false;

  nativeBuildInputs = [
    installShellFiles
    makeWrapper
  ];

  postInstall = ''
    mkdir -p $out/libexec
    ln -s ${helpers}/libexec/banger $out/libexec/banger

    installManPage man/*/*.1
    installShellCompletion --bash completions/bash/*
    installShellCompletion --zsh completions/zsh/*
    installShellCompletion --fish completions/fish/*

    mkdir -p $out/lib/systemd/system
    find bins helper -regex '.*/systemd/[^/]*\.\(service\|socket\|timer\)' \
      -exec install -m 0644 -t $out/lib/systemd/system/ {} +
    substituteInPlace $out/lib/systemd/system/* \
      --replace-quiet "/usr/libexec/banger/banger-netd " "/usr/libexec/banger/banger-netd --nft ${nftables}/bin/nft " \
      --replace-quiet /usr/libexec/banger/ ${helpers}/libexec/banger/ \
      --replace-quiet /usr/bin/ $out/bin/
  '';

  # After the manual and completions, which name the programs as they are called.
  postFixup = ''
    for program in ${toString programs}; do
      wrapProgram "$out/bin/$program" --prefix PATH : ${lib.makeBinPath tools}
    done
  '';

  passthru = {
    inherit helpers;
  };

  meta = {
    description = "From an OCI image or a Nix closure to a running microVM, without root, without a daemon";
    license = lib.licenses.asl20;
    mainProgram = "banger";
    platforms = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
}
