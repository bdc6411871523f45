# One executable of the package, with its manual and completions: for who wants no more on PATH.
{
  runCommand,
  banger,
  program,
}:
runCommand program
  {
    inherit (banger) version;
    meta = banger.meta // {
      description = "${program} of banger";
      mainProgram = program;
    };
  }
  ''
    mkdir -p $out/bin
    ln -s ${banger}/bin/${program} $out/bin/${program}
    for file in \
      share/man/man1/${program}.1.gz share/man/man1/${program}-*.1.gz \
      share/bash-completion/completions/${program}.bash \
      share/zsh/site-functions/_${program} \
      share/fish/vendor_completions.d/${program}.fish; do
      for there in ${banger}/$file; do
        if [ -e "$there" ]; then
          mkdir -p "$out/$(dirname "$file")"
          ln -s "$there" "$out/$(dirname "$file")/"
        fi
      done
    done
  ''
