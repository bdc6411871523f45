# What the flake takes of nixpkgs, in small. Nothing is compiled: executables are those that the test run has
# built, other programs those of the host. So this shows that our own Nix code evaluates, and that what it
# writes in shell works; it does not show that nixpkgs' builders would compile banger.
{
  lib,
  system,
  host,
}:
let
  make =
    attrs:
    derivation (
      {
        inherit system;
        builder = "/bin/bash";
        args = [
          "-euc"
          ''. ${./setup.sh}; eval "$script"''
        ];
        PATH = "${
          lib.makeBinPath (lib.filter (input: input != null) attrs.nativeBuildInputs or [ ])
        }:/usr/sbin:/usr/bin:/sbin:/bin";
      }
      // removeAttrs attrs [
        "meta"
        "passthru"
      ]
    )
    // {
      meta = attrs.meta or { };
      overrideAttrs = change: make (attrs // (if lib.isFunction change then change attrs else change));
    }
    // attrs.passthru or { };

  # A package that is programs of the host; those that nothing here runs are true(1).
  programs =
    name: paths:
    make {
      inherit name;
      script = ''
        mkdir -p $out/bin
        ${lib.concatStrings (lib.mapAttrsToList (program: path: "ln -s ${path} $out/bin/${program}\n") paths)}
      '';
      meta.mainProgram = name;
    };
  program = name: path: programs name { ${name} = path; };

  toToml =
    value:
    if builtins.isAttrs value && !lib.isDerivation value then
      "{ ${lib.concatStringsSep ", " (lib.mapAttrsToList pair value)} }"
    else if builtins.isList value then
      "[${lib.concatMapStringsSep ", " toToml value}]"
    else if builtins.isPath value then
      builtins.toJSON (toString value)
    else
      builtins.toJSON value;
  pair = key: value: "${builtins.toJSON key} = ${toToml value}";

  pkgs = {
    inherit lib system;
    callPackage = lib.callPackageWith pkgs;

    stdenv = {
      hostPlatform = {
        inherit system;
        isx86_64 = system == "x86_64-linux";
        linux-kernel.target = "bzImage";
      };
      buildPlatform.canExecute = platform: platform.system == system;
      cc.libc.static = program "libc-static" "/bin/true";
    };

    runCommand =
      name: attrs: script:
      make (attrs // { inherit name script; });
    writeShellScript =
      name: text:
      make {
        inherit name text;
        script = ''
          printf '%s\n%s' '#!/bin/bash' "$text" > $out
          chmod +x $out
        '';
      };
    writeShellScriptBin =
      name: text:
      make {
        inherit name text;
        script = ''
          mkdir -p $out/bin
          printf '%s\n%s' '#!/bin/bash' "$text" > $out/bin/${name}
          chmod +x $out/bin/${name}
        '';
        meta.mainProgram = name;
      };
    writeShellApplication =
      {
        name,
        text,
        runtimeInputs ? [ ],
      }:
      pkgs.writeShellScriptBin name ''
        set -euo pipefail
        export PATH=${lib.makeBinPath runtimeInputs}:$PATH
        ${text}
      '';
    mkShell =
      { packages, meta, ... }:
      make {
        name = "shell";
        script = "printf '%s\\n' ${toString packages} > $out";
        inherit meta;
      };
    testers.runNixOSTest =
      test:
      make {
        name = "not-run-without-nixpkgs";
        # Evaluated, at least.
        script = "echo ${(test { inherit pkgs; }).name} > $out";
      };

    formats.toml = _: {
      type =
        with lib.types;
        let
          value = nullOr (oneOf [
            bool
            int
            float
            str
            path
            (attrsOf value)
            (listOf value)
          ]);
        in
        attrsOf value;
      generate =
        name: value:
        make {
          inherit name;
          text = lib.concatStrings (lib.mapAttrsToList (key: inner: pair key inner + "\n") value);
          script = ''printf '%s' "$text" > $out'';
        };
    };

    rustPlatform.buildRustPackage =
      attrs:
      make (
        removeAttrs attrs [
          "cargoLock"
          "env"
        ]
        // {
          name = "${attrs.pname}-${attrs.version}";
          prebuilt = host.prebuilt;
          # Read by cargo elsewhere.
          lock = attrs.cargoLock.lockFile;
          script = "buildRustPackage";
        }
      );
    installShellFiles = null;
    makeWrapper = null;

    # The agent's image must have it whole.
    busybox = make {
      name = "busybox";
      script = ''
        mkdir -p $out/bin
        cp ${host.busybox} $out/bin/busybox
        for applet in $($out/bin/busybox --list); do
          [ $applet = busybox ] || ln -sf busybox $out/bin/$applet
        done
        ln -sf busybox $out/bin/sh
      '';
      meta.mainProgram = "busybox";
    };
    linuxPackages.kernel = make {
      name = "linux";
      script = ''
        mkdir unpacked
        dpkg-deb --extract ${host.kernel} unpacked
        mkdir -p $out/lib
        cp unpacked/boot/vmlinuz-* $out/bzImage
        cp -r unpacked/lib/modules $out/lib/
      '';
      passthru.modDirVersion = host.kernelRelease;
    };

    qemu_kvm = program "qemu-system-x86_64" "/usr/bin/qemu-system-x86_64";
    e2fsprogs = programs "e2fsprogs" {
      e2fsck = "/sbin/e2fsck";
      mke2fs = "/sbin/mke2fs";
    };
    erofs-utils = program "fsck.erofs" "/usr/bin/fsck.erofs";
    openssh = program "ssh" "/usr/bin/ssh";
    nftables = program "nft" "/usr/sbin/nft";
    git = program "git" "/usr/bin/git";
    util-linux = program "runuser" "/usr/sbin/runuser";
    coreutils = program "env" "/usr/bin/env";
  }
  // lib.genAttrs [
    "cargo"
    "cargo-deny"
    "clippy"
    "findutils"
    "gnugrep"
    "gnused"
    "nixfmt"
    "rustc"
    "rustfmt"
    "systemd"
  ] (name: program name "/bin/true");
in
pkgs
