/// What qemu-img and qemu-io wrote is what we read.

#include <fstream>
#include <iterator>

#include "qcow2_support.h"

namespace {

using Bytes = std::vector<std::byte>;

/// As the file is.
Bytes Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto* bytes = reinterpret_cast<const std::byte*>(text.data());
  return {bytes, bytes + text.size()};
}

/// As QEMU reads the image.
Bytes ByQemu(const Folder& folder, const std::string& path) {
  const std::string raw = folder / "raw";
  Shell("qemu-img convert -O raw " + path + " " + raw);
  return Contents(raw);
}

/// Zeroes of both forms, clusters in disorder, and parts of clusters. Its size is no whole cluster.
constexpr const char* kFormats[] = {"compat=0.10", "compat=1.1"};
constexpr const char* kClusters[] = {"512", "64k", "2M"};
const std::string kWrites =
    "qemu-io -f qcow2 -c 'write -P 3 5M 70k' -c 'write -P 1 0 130k' -c 'write -P 2 3M 512' "
    "-c 'write -P 9 2097152 1536' -c 'write -z 16k 128k' -c 'discard 5M 64k' -c 'write -P 7 "
    "7340544 4k' ";

void Plain() {
  const Folder folder;
  for (const char* format : kFormats)
    for (const char* cluster : kClusters) {
      const std::string options = std::string("-o cluster_size=") + cluster + "," + format;
      const std::string path = MadeImage(folder, "image", options, "7345152");
      Shell(kWrites + path);
      CHECK(Disk(path, true).ReadAll() == ByQemu(folder, path));
    }
}

void Compressed() {
  const Folder folder;
  const std::string raw = folder / "source";
  Shell("qemu-img create -f raw " + raw + " 7345152 && seq 1 300000 | dd conv=notrunc of=" + raw);
  for (const char* type : {"compat=0.10", "compression_type=zlib", "compression_type=zstd"})
    for (const char* cluster : kClusters) {
      const std::string path = folder / "image";
      const std::string options = std::string("-o cluster_size=") + cluster + "," + type;
      Shell("qemu-img convert -c -O qcow2 " + options + " " + raw + " " + path);
      CHECK(Disk(path, true).ReadAll() == Contents(raw));
    }
}

void Backed() {
  const Folder folder;
  const std::string raw = folder / "base";
  for (const char* size : {"3000320", "9M"}) {
    Shell("rm -f " + raw + " && qemu-img create -f raw " + raw + " " + size);
    Shell("seq 1 300000 | dd conv=notrunc of=" + raw);
    const std::string path = MadeImage(folder, "image", "-F raw -b " + raw, "5M");
    Shell("qemu-io -c 'write -P 1 64k 128k' -c 'write -z 1M 1M' -c 'write -P 2 3M 512' " + path);
    CHECK(Disk::Over(path, raw).ReadAll() == ByQemu(folder, path));
  }
}

/// The chain of three: an extent tells which of the files it is in.
void Chain() {
  const Folder folder;
  const std::string base = MadeImage(folder, "base", "", "1M");
  const std::string top = MadeImage(folder, "top", "-F qcow2 -b " + base, "1M");
  Shell("qemu-io -c 'write -P 1 0 128k' " + base + " && qemu-io -c 'write -P 2 64k 64k' " + top);
  std::unique_ptr<vmm::Image> below;
  std::unique_ptr<vmm::Image> image;
  std::string why;
  auto base_file = std::make_unique<SeenFile>(base, true);
  const vmm::File file = base_file->file();
  CHECK(OpenQcow2(std::move(base_file), {}, true, &below, &why) == 0);
  CHECK(OpenQcow2(std::make_unique<SeenFile>(top, true), {std::move(below), {file}}, true, &image,
                  &why) == 0);
  vmm::Extent extent;
  CHECK(image->Read({512, 1 << 20}, &extent) == 0);
  CHECK(extent.file == 1 && extent.length == 65536 - 512);
  CHECK(image->Read({65536, 1 << 19}, &extent) == 0);
  CHECK(extent.file == 0 && extent.length == 65536);
  CHECK(image->Read({131072, 1 << 19}, &extent) == 0);
  CHECK(extent.kind == vmm::Extent::Kind::kZero && extent.length == 1 << 19);
}

/// What lies next to each other in the file is read at once.
void Merged() {
  const Folder folder;
  const std::string path = MadeImage(folder, "image", "-o preallocation=metadata", "64M");
  const Disk disk(path, true);
  vmm::Extent extent;
  CHECK(disk.image().Read({4096, 32 << 20}, &extent) == 0);
  CHECK(extent.kind == vmm::Extent::Kind::kFile && extent.length == 32 << 20);
}

}  // namespace

int main() {
  Test("what QEMU wrote is read back, whatever the version and the size of clusters", Plain);
  Test("what QEMU compressed by zlib or zstd is read back", Compressed);
  Test("a smaller and a larger backing file show through", Backed);
  Test("an extent tells which file of the chain it lies in", Chain);
  Test("clusters next to each other are one extent", Merged);
}
