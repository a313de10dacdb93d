#!/usr/bin/env bash
# Makes a Debian arm64 root, installs this project's wheel in it and runs its tests and its demo there, all of it
# emulated by qemu. The last thing on standard output is the demo's timeline, printed by an aarch64 Python.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: check.sh [--root DIR] [--keep] [--suite NAME] [--mirror URL] [--python FILE] [--data DIR]
                [--results FILE] [--no-tests] [--without-binfmt] [--help]

Needs an x86-64 Debian or Ubuntu, root, 3 GB of disk, a package mirror and an index of Python packages, and
  apt-get install debootstrap qemu-user-static python3-venv

  --root DIR        folder for everything that is made (default: a new one under TMPDIR); one that an earlier
                    run left there with --keep is used again
  --keep            leave DIR behind
  --suite NAME      release of Debian or Ubuntu, and so the Python (default: bookworm, 3.11); debootstrap must
                    know it and have its keyring
  --mirror URL      where its packages come from (default: the mirror of this machine if it has the suite,
                    else debootstrap's own)
  --python FILE     x86-64 Python that makes the wheel and the answers to compare with (default: python3)
  --data DIR        recordings for the tests (default: EDGEEMO_DATA; without it those tests skip)
  --results FILE    write the page of results there
  --no-tests        only install, compare and show the demo
  --without-binfmt  start qemu by name, as is done where the kernel does not start it
TEXT
}

# What is left out, each with the reason: 'path|reason' or 'path::name|reason'. Tests over the stand-ins for TensorRT
# and CUDA take half of the time, and there is neither here; tests/inference/test_accelerated.py keeps a look at them.
DESELECTED=(
  'tests/inference/test_tensorrt_double.py|the stand-in for TensorRT itself'
  'tests/inference/test_misspelt_calls.py|over the stand-in for TensorRT'
  'tests/inference/test_trt.py|over the stand-in for TensorRT'
  'tests/inference/test_trt_builder.py|over the stand-in for TensorRT'
  'tests/inference/test_cuda.py|over the stand-in for CUDA'
  'tests/calibration/test_lint.py|reads graphs, computes nothing'
  'tests/test_documents.py::test_command_of_the_readme|plays the demo a dozen times; the script plays it itself'
)

# An Armv8.2 with dot products and half precision, as the Cortex-A78AE of a Jetson Orin is.
export QEMU_CPU=cortex-a76

# Progress goes to standard error, the demo's timeline alone to standard output.
say() { printf '%s\n' "== $*" >&2; }
die() {
  printf 'check.sh: %s\n' "$*" >&2
  exit 1
}

# --- options

work=
keep=no
suite=bookworm
mirror=
host_python=python3
data=${EDGEEMO_DATA:-}
results=
tests=yes
binfmt=yes
words=("$@")
while (($#)); do
  case $1 in
    --root | --suite | --mirror | --python | --data | --results)
      (($# > 1)) || die "$1 needs a value; see --help"
      case $1 in
        --root) work=$2 ;;
        --suite) suite=$2 ;;
        --mirror) mirror=$2 ;;
        --python) host_python=$2 ;;
        --data) data=$2 ;;
        --results) results=$2 ;;
      esac
      shift
      ;;
    --keep) keep=yes ;;
    --no-tests) tests=no ;;
    --without-binfmt) binfmt=no ;;
    --help)
      usage
      exit 0
      ;;
    *) die "$1 is not an option; see --help" ;;
  esac
  shift
done

source_of_edgeemo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# --- outside: checks, and a namespace that takes every mount with it when it ends

check_machine() {
  [[ $(uname -m) == x86_64 ]] || die "this is $(uname -m); on an aarch64 machine nothing need be emulated"
  ((EUID == 0)) || die "debootstrap needs root"
  local program missing=()
  for program in debootstrap qemu-aarch64-static dpkg-deb; do
    command -v "$program" >/dev/null || missing+=("$program")
  done
  ((${#missing[@]} == 0)) || die "${missing[*]} not found: apt-get install debootstrap qemu-user-static"
  "$host_python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$host_python cannot make environments: apt-get install python3-venv, or give --python"
  [[ -z $data || -d $data ]] || die "--data: $data is not a folder"
}

outside() {
  check_machine
  if [[ -z $work ]]; then
    work=$(mktemp -d "${TMPDIR:-/tmp}/edgeemo-arm64.XXXXXX")
  else
    mkdir -p "$work"
    work=$(cd "$work" && pwd)
    # Nothing is written into, and nothing removed from, a folder that somebody else made.
    [[ -e $work/.edgeemo-arm64 || -z $(ls -A "$work") ]] || die "--root: $work is not empty and not of this script"
  fi
  : >"$work/.edgeemo-arm64"
  if [[ $keep == no ]]; then
    trap 'rm -rf --one-file-system "$work"' EXIT
  fi

  local enter=()
  if [[ $binfmt == yes ]] && unshare --mount --propagation private true 2>/dev/null; then
    enter=(unshare --mount --propagation private)
  else
    binfmt=no
  fi
  local status=0
  EDGEEMO_ARM64_WORK=$work EDGEEMO_ARM64_BINFMT=$binfmt \
    "${enter[@]}" bash "${BASH_SOURCE[0]}" "${words[@]}" || status=$?
  [[ $keep == no ]] || say "kept: $work"
  return "$status"
}

# --- the root

# The mirror of this machine that has the suite; only Debian's carry arm64 beside x86-64.
configured_mirror() {
  # shellcheck disable=SC2016 # apt fills in the fields
  apt-get indextargets --format '$(CODENAME) $(ORIGIN) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$suite" '$1 == suite && $2 == "Debian" { print $3; exit }'
}

fetch_packages() {
  local proxy=
  eval "$(apt-config shell proxy Acquire::http::Proxy 2>/dev/null)"
  if [[ -n $proxy ]]; then export http_proxy=${http_proxy:-$proxy}; fi
  mirror=${mirror:-$(configured_mirror)}
  say "packages of $suite for arm64"
  rm -rf --one-file-system "$root"
  # PortAudio is what sounddevice opens microphones with; universe is where Ubuntu has it.
  debootstrap --foreign --variant=minbase --arch=arm64 --components=main,universe \
    --include=python3,libportaudio2 "$suite" "$root" ${mirror:+"$mirror"} >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log" >&2
    die "debootstrap found no $suite for arm64; see --mirror, and whether its keyring is installed"
  }
}

emulates() { chroot "$root" /bin/true 2>/dev/null; }

# Has the kernel start qemu for arm64 programs, until this script ends: with an entry of its own also where there is
# one, for that may be of another run, which takes it away when it ends.
register() {
  local folder=/proc/sys/fs/binfmt_misc entry=edgeemo-arm64-$$ ident mask
  [[ -e $folder/register ]] || mount -t binfmt_misc none "$folder" 2>/dev/null || return 1
  # An ELF header: 64 bits, little-endian, an executable or a shared object (the last bit is masked), AArch64.
  ident='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  # F: qemu is opened now, and need not lie in the root.
  printf '%s' ":$entry:M::$ident:$mask:$(command -v qemu-aarch64-static):F" 2>/dev/null >"$folder/register" ||
    return 1
  # shellcheck disable=SC2064 # the names of now
  trap "echo -1 >$folder/$entry" EXIT
}

# Packages in place but not configured: enough for a Python that qemu starts by name, with nothing run in the root.
unpack_packages() {
  say "unpacking, for qemu by name"
  local package
  for package in "$root"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
  done
}

configure_packages() {
  say "configuring, in the root; takes some minutes"
  mount -t proc proc "$root/proc" # debootstrap takes it away again
  chroot "$root" /debootstrap/debootstrap --second-stage >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log" >&2
    die "the packages of the root could not be configured; --without-binfmt needs no configuring"
  }
}

# Says which programs the emulated system sees as its processor's. cpuinfo, which ONNX Runtime asks, ends with a
# segmentation fault when it finds the x86-64 machine's in their place, and complains when it finds none.
describe_processor() {
  local count number
  count=$(nproc)
  rm -rf "$root/sys" && mkdir -p "$root/sys/devices/system/cpu"
  echo "0-$((count - 1))" | tee "$root/sys/devices/system/cpu/possible" >"$root/sys/devices/system/cpu/present"
  for ((number = 0; number < count; number++)); do
    printf '%s\t: %s\n' processor "$number" \
      Features 'fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp' \
      'CPU implementer' 0x41 'CPU architecture' 8 'CPU variant' 0x3 'CPU part' 0xd0b 'CPU revision' 1
    echo
  done >"$work/cpuinfo"
}

make_root() {
  root=$work/root
  if [[ -e $work/made ]]; then
    local made_suite
    read -r made_suite mode <"$work/made"
    [[ $made_suite == "$suite" ]] || die "$work holds a root of $made_suite; give another --root for $suite"
    [[ $binfmt == yes || $mode == prefix ]] ||
      die "$work holds a root that the kernel must start qemu for; give another --root"
    say "root of an earlier run: $suite"
  else
    fetch_packages
    mode=prefix
  fi
  if [[ $binfmt == yes ]] && { register || true; } && emulates; then
    [[ -e $work/made ]] || mode=chroot
  elif [[ $mode == chroot ]]; then
    die "the kernel does not start qemu any more; give another --root"
  elif [[ $binfmt == yes ]]; then
    say "binfmt_misc cannot be used here"
  fi

  describe_processor
  # debootstrap leaves a link to the machine's where it thinks that it is in a container.
  [[ ! -L $root/proc ]] || { rm "$root/proc" && mkdir "$root/proc"; }
  if [[ $mode == chroot ]]; then
    [[ -e $work/made ]] || configure_packages
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    mount --bind "$work/cpuinfo" "$root/proc/cpuinfo"
    mkdir -p "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"
  else
    [[ -e $work/made ]] || unpack_packages
    cp "$work/cpuinfo" "$root/proc/cpuinfo"
  fi
  echo "$suite $mode" >"$work/made"
}

# --- Python in it

# Paths as the emulated programs see them: in a chroot they start at the root, else they are this machine's.
settle_paths() {
  if [[ $mode == chroot ]]; then
    inside=
    enter=(chroot "$root")
  else
    inside=$root
    enter=()
  fi
  own=/opt/edgeemo
  python=$inside$own/venv/bin/python
  mkdir -p "$root$own" "$root/tmp" "$root$own/data"
  if [[ -z $data ]]; then
    recordings=
  elif [[ $mode == chroot ]]; then
    mount --bind -o ro "$data" "$root$own/data"
    recordings=$own/data
  else
    recordings=$(cd "$data" && pwd)
  fi
}

# Runs the emulated Python in the copy of the project, in an environment of its own: nothing that this machine's
# user has set, and no detector that he has fetched, makes a difference.
emulated() {
  "${enter[@]}" env -i --chdir="$inside$own/tree" PATH="$inside$own/venv/bin:/usr/bin:/bin" HOME="$inside/root" \
    TMPDIR="$inside/tmp" LANG=C.UTF-8 OMP_NUM_THREADS=1 QEMU_CPU="$QEMU_CPU" \
    ${recordings:+EDGEEMO_DATA="$recordings"} "$python" "$@"
}

native() {
  env -i --chdir="$work" PATH=/usr/bin:/bin HOME="$work/host" LANG=C.UTF-8 OMP_NUM_THREADS=1 \
    "$work/host/bin/python" "$@"
}

make_environment() {
  local folder=$root$own/venv real=/usr/bin/python3
  [[ ! -e $folder/pyvenv.cfg ]] || return 0
  mkdir -p "$folder/bin"
  printf '%s\n' "home = $inside/usr/bin" 'include-system-site-packages = false' >"$folder/pyvenv.cfg"
  if [[ $mode == chroot ]]; then
    ln -sf "$real" "$folder/bin/python"
  else
    # sys.executable is this file, so that a Python which starts another starts it through qemu too.
    printf '%s\n' '#!/bin/sh' \
      "exec $(command -v qemu-aarch64-static) -cpu $QEMU_CPU -L '$root' -0 '$python' '$root$real' \"\$@\"" \
      >"$folder/bin/python"
    chmod +x "$folder/bin/python"
  fi
}

# Downloads here, where the index is configured and pip is fast; installs there, from what was downloaded.
install_wheel() {
  local minor version platforms=() wheel
  version=$(readlink "$root/usr/bin/python3")
  version=${version#python}
  # pip takes tags literally; 2.35 is JetPack 6's glibc, the oldest that is asked for here.
  for minor in {17..35}; do platforms+=(--platform "manylinux_2_${minor}_aarch64"); done

  say "wheels for Python $version on aarch64"
  "$host_python" -m venv "$work/host"
  rm -rf "$work/wheels" "$root$own/wheels"
  "$work/host/bin/pip" wheel -qq --no-deps --wheel-dir "$work/wheels" "$source_of_edgeemo"
  wheel=$(cd "$work/wheels" && ls edgeemo-*.whl)
  # pip evaluates conditions such as python_version for itself, not for the target: exceptiongroup and tomli are what
  # pytest needs on Python 3.10.
  "$work/host/bin/pip" download -qq --dest "$work/wheels" --only-binary=:all: --implementation cp \
    --python-version "$version" "${platforms[@]}" --platform manylinux2014_aarch64 \
    "$work/wheels/${wheel}[calibration]" 'pytest>=8' exceptiongroup tomli typing-extensions pip ||
    die "not every dependency has a wheel for Python $version on aarch64"

  say "installing"
  cp -r "$work/wheels" "$root$own/wheels"
  local there=$inside$own/wheels
  local pip=("$there/$(cd "$work/wheels" && ls pip-*.whl)/pip" --disable-pip-version-check -qq)
  local install=(install --no-index --find-links "$there" --no-compile --root-user-action ignore)
  emulated "${pip[@]}" "${install[@]}" --upgrade "$there/${wheel}[calibration]" pytest exceptiongroup tomli
  # Of a root that is used again: the version is the same, the content may not be.
  emulated "${pip[@]}" "${install[@]}" --no-deps --force-reinstall "$there/$wheel"
  emulated "${pip[0]}" check >&2
  rm -r "$root$own/wheels"

  # The same versions on x86-64, as far as its Python has them.
  (cd "$work/wheels" && ls -- *.whl) | awk -F- '$1 != "edgeemo" && $1 != "pip" { print $1 "==" $2 }' >"$work/versions"
  "$work/host/bin/pip" install -qq --force-reinstall --no-deps "$work/wheels/$wheel"
  "$work/host/bin/pip" install -qq --constraint "$work/versions" "$work/wheels/$wheel" 2>/dev/null || {
    say "$host_python has other versions, which may answer otherwise; best give --python an x86-64 Python $version"
    "$work/host/bin/pip" install -qq "$work/wheels/$wheel"
  }
}

# The project's files, but the packages as they were installed: what is tested is the wheel.
copy_tree() {
  local tree=$root$own/tree site package
  rm -rf "$tree" && mkdir -p "$tree"
  tar -c -C "$source_of_edgeemo" --anchored --exclude=./.git --exclude=./.venv --exclude=./runs --exclude=./build \
    --exclude=./dist --no-anchored --exclude=__pycache__ --exclude='.*_cache' . | tar -x --no-same-owner -C "$tree"
  site=$(cd "$root$own/venv/lib"/python3.*/site-packages && pwd)
  for package in edgeemo calibration/edgeemo_calibration export/edgeemo_export; do
    rm -r "${tree:?}/$package"
    cp -r "$site/${package##*/}" "$tree/$package"
  done
}

# --- what is run

run_tests() {
  local options=() entry start=$SECONDS
  for entry in "${DESELECTED[@]}"; do options+=(--deselect "${entry%%|*}"); done
  say "unit tests, emulated; takes half an hour or more"
  emulated -m pytest -p no:cacheprovider -q --tb=short -m 'not slow and not gpu' --ignore tests/export \
    "${options[@]}" --junitxml "$inside$own/out/tests.xml" >&2 || status=1
  printf '%s\n' "${DESELECTED[@]}" >"$out/deselected"
  say "tests took $(((SECONDS - start) / 60)) minutes"
}

within() {
  work=$EDGEEMO_ARM64_WORK
  binfmt=$EDGEEMO_ARM64_BINFMT
  status=0
  make_root
  settle_paths
  out=$root$own/out
  rm -rf "$out" && mkdir -p "$out"
  mkdir -p "$root$own/tree" # where everything runs; filled once the packages are installed
  make_environment
  install_wheel
  copy_tree

  local summary=$source_of_edgeemo/deploy/arm64/results.py command=$inside$own/venv/bin/edgeemo
  say "doctor, info and the demo's answers"
  emulated "$command" doctor >&2 || status=1
  emulated "$command" doctor --json >"$out/doctor.json" || status=1
  emulated "$command" info >"$out/info.txt"
  emulated "$command" demo --json >"$out/demo.aarch64.json"
  emulated deploy/arm64/results.py facts >"$out/facts.aarch64.json"
  native "$work/host/bin/edgeemo" demo --json >"$out/demo.x86-64.json"
  native "$summary" facts >"$out/facts.x86-64.json"
  native "$summary" compare "$out" >&2 || status=1
  [[ $tests == no ]] || run_tests

  say "the demo, emulated"
  emulated "$command" demo | tee "$out/demo.txt"
  qemu-aarch64-static --version | head -n 1 >"$out/emulator"
  echo "$suite $mode $QEMU_CPU" >"$out/root"
  if [[ -n $results ]]; then native "$summary" page "$out" >"$results"; fi
  ((status == 0)) || say "not all is well: see above"
  exit "$status"
}

if [[ -n ${EDGEEMO_ARM64_WORK:-} ]]; then
  within
else
  outside
fi
