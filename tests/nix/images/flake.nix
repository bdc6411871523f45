# What the tests of `banger-image import --nix` build: derivations of a real Nix, with programs of the machine, as no
# nixpkgs is at hand. The test writes host.nix beside it.
{
  description = "Packages, a NixOS-shaped system and archives";

  outputs =
    { self }:
    let
      host = import ./host.nix;
      run =
        name: script:
        derivation {
          inherit name;
          system = "x86_64-linux";
          builder = "/bin/sh";
          args = [
            "-euc"
            script
          ];
          PATH = "/usr/sbin:/usr/bin:/sbin:/bin";
        };
    in
    {
      packages.x86_64-linux = rec {
        busybox = run "busybox-1.35" ''
          mkdir -p $out/bin
          cp /bin/busybox $out/bin/
          for name in $(/bin/busybox --list); do
            [ $name = busybox ] || ln -s busybox $out/bin/$name
          done
        '';

        # A static program and what it needs at run time, told by names in its bytes.
        hello =
          run "hello-1.0" ''
            mkdir -p $out/bin $out/share
            printf '#!${busybox}/bin/sh\necho hello from the closure\n' > $out/bin/greet
            printf '#!${busybox}/bin/sh\n' > $out/bin/other
            chmod +x $out/bin/*
            ln -s ${busybox} $out/share/busybox
            ln $out/bin/other $out/share/same
          ''
          // {
            meta.mainProgram = "greet";
          };

        # Nix itself with its libraries, for the guest.
        nix = run "nix-${host.nixVersion}" ''
          libraries=${host.nix}/usr/lib/x86_64-linux-gnu
          loader=${host.nix}/usr/lib64/ld-linux-x86-64.so.2
          mkdir -p $out/bin $out/lib
          $loader --library-path $libraries --list ${host.nix}/usr/bin/nix | while read -r _ _ file _; do
            case $file in /*) cp -L $file $out/lib/ ;; esac
          done
          cp -L $loader $out/lib/
          cp ${host.nix}/usr/bin/nix $out/bin/nix
          patchelf --set-interpreter $out/lib/ld-linux-x86-64.so.2 --force-rpath --set-rpath $out/lib $out/bin/nix
          ln -s nix $out/bin/nix-store
        '';

        toolbox = run "toolbox" ''
          mkdir -p $out/bin
          ln -s ${busybox}/bin/* ${nix}/bin/* ${hello}/bin/greet $out/bin/
        '';

        # As NixOS has it: the kernel alone, its modules joined from links, and a second stage that executes init.
        kernel = run "linux-${host.kernelRelease}" ''
          mkdir root $out
          dpkg-deb --extract ${host.kernel} root
          cp root/boot/vmlinuz-* $out/bzImage
          mkdir -p $out/lib/modules
          cp -r root/lib/modules/${host.kernelRelease} $out/lib/modules/
          cd $out/lib/modules/${host.kernelRelease}/kernel
          rm -rf sound drivers/gpu drivers/infiniband drivers/usb drivers/scsi drivers/md net/netfilter
        '';
        modules = run "kernel-modules" ''
          mkdir -p $out/lib/modules/${host.kernelRelease}
          ln -s ${kernel}/lib/modules/${host.kernelRelease}/* $out/lib/modules/${host.kernelRelease}/
          ln -s /nowhere $out/lib/modules/${host.kernelRelease}/build
        '';
        system = run "nixos-system-box-24.11" ''
          mkdir $out
          ln -s ${kernel}/bzImage $out/kernel
          ln -s ${modules} $out/kernel-modules
          ln -s ${toolbox} $out/sw
          cat > $out/init <<EOF
          #!${busybox}/bin/sh
          export PATH=${busybox}/bin
          mkdir -p /etc /run
          ln -sfn $out /run/current-system
          echo "::sysinit:${busybox}/bin/touch /run/activated" > /etc/inittab
          exec ${busybox}/bin/busybox init
          EOF
          chmod +x $out/init
          cat > $out/boot.json <<EOF
          {
            "org.nixos.bootspec.v1": {
              "init": "$out/init",
              "kernel": "${kernel}/bzImage",
              "kernelParams": [ "loglevel=4", "root=fstab", "console=tty0", "banger.told=yes" ],
              "label": "NixOS-shaped (Linux ${host.kernelRelease})",
              "system": "x86_64-linux",
              "toplevel": "$out"
            },
            "org.nixos.specialisation.v1": {}
          }
          EOF
        '';
        foreignSystem = run "nixos-system-arm-24.11" ''
          mkdir $out
          sed 's/x86_64-linux/aarch64-linux/' ${system}/boot.json > $out/boot.json
        '';

        # Of `boot.isContainer`: no kernel, and so no boot.json.
        container = run "nixos-system-box-24.11" ''
          mkdir $out
          cp ${system}/init $out/init
          echo 24.11 > $out/nixos-version
          echo x86_64-linux > $out/system
        '';

        # Archives of the same image.
        archive = run "image.tar.gz" "gzip -n < ${host.archive} > $out";
        zstdArchive = run "image.tar.zst" "zstd -q < ${host.archive} > $out";
        stream = run "stream-image" ''
          printf '#!/bin/sh\ncat ${host.archive}\n' > $out
          chmod +x $out
        '';
        brokenStream = run "stream-broken" ''
          printf '#!/bin/sh\ncat ${host.archive}\necho no more >&2\nexit 3\n' > $out
          chmod +x $out
        '';
        layers = run "image-layers.json" ''
          cat > $out <<EOF
          {
            "version": 1,
            "image-config": { "Entrypoint": [ "${hello}/bin/greet" ], "Env": [ "A=b" ] },
            "layers": [
              { "digest": "sha256:0", "size": 1, "diff_ids": "sha256:0", "mediatype": "x",
                "paths": [ { "path": "${busybox}" }, { "path": "${hello}" } ] },
              { "digest": "sha256:0", "size": 1, "diff_ids": "sha256:0", "mediatype": "x",
                "paths": [ { "path": "${etc}", "options": { "rewrite": { "regex": "^${etc}", "repl": "" } } } ] }
            ],
            "arch": "amd64",
            "created": "0001-01-01T00:00:00Z"
          }
          EOF
        '';
        etc = run "etc" ''
          mkdir -p $out/etc
          echo from nix2container > $out/etc/motd
        '';
        disk = run "root.ext4" "truncate -s 8M $out; mke2fs -q -t ext4 -d ${etc} $out";
        qcow2 = run "disk" "mkdir $out; printf 'QFI\\373%4096s' x > $out/nixos.qcow2";

        # What cannot be imported.
        text = run "notes" "echo just text > $out";
        foreign = run "foreign-1.0" ''
          mkdir -p $out/bin
          printf '\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\267\0\1\0\0\0' > $out/bin/foreign
          chmod +x $out/bin/foreign
        '';
        otherMachine = derivation {
          name = "other";
          system = "aarch64-linux";
          builder = "/bin/sh";
        };
        broken = throw "broken on purpose";
      };
    };
}
