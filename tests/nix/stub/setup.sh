# The shell functions of nixpkgs' hooks that our packages call, as their manual describes them.

substituteInPlace() {
    local files=() expressions=()
    while [ $# -gt 0 ]; do
        case $1 in
        --replace-quiet)
            expressions+=(-e "s|$2|$3|g")
            shift 3
            ;;
        *)
            files+=("$1")
            shift
            ;;
        esac
    done
    sed -i "${expressions[@]}" "${files[@]}"
}

installManPage() {
    local page
    for page; do
        mkdir -p "$out/share/man/man${page##*.}"
        gzip -9nc "$page" > "$out/share/man/man${page##*.}/${page##*/}.gz"
    done
}

installShellCompletion() {
    local shell=$1 place
    shift
    case $shell in
    --bash) place=share/bash-completion/completions ;;
    --zsh) place=share/zsh/site-functions ;;
    --fish) place=share/fish/vendor_completions.d ;;
    esac
    mkdir -p "$out/$place"
    cp -- "$@" "$out/$place/"
}

wrapProgram() {
    local program=$1
    [ "$2 $3 $4" = "--prefix PATH :" ]
    mv "$program" "${program%/*}/.${program##*/}-wrapped"
    printf '#!/bin/bash -e\nPATH=%s:$PATH\nexec -a "$0" %s "$@"\n' \
        "$5" "${program%/*}/.${program##*/}-wrapped" > "$program"
    chmod +x "$program"
}

# Installs the packages of the build flags, as cargo's hook would after a build.
buildRustPackage() {
    local word
    mkdir -p "$out/bin"
    for word in $cargoBuildFlags; do
        [ "$word" = --package ] || cp "$prebuilt/$word" "$out/bin/"
    done
    cp -r "$src" source
    chmod -R u+w source
    cd source
    eval "${postInstall-}"
    eval "${postFixup-}"
    eval "${installCheckPhase-}"
}
