#include "../../native/sys/tap.h"

#include <fcntl.h>
#include <netinet/ether.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "check.h"
#include "host_net.h"

namespace {

bool Fails(const vmm::Status& status, int error, const std::string& call) {
  return status.error == error && call == status.call;
}

vmm::Tap Open(const std::string& name, uint32_t queue_pairs = 1) {
  vmm::Tap tap;
  CHECK(vmm::OpenTap(name, queue_pairs, &tap).ok());
  return tap;
}

vmm::TapFacts Ask(const vmm::Tap& tap) {
  vmm::TapFacts facts;
  CHECK(vmm::AskTap(tap.files[0].get(), &facts).ok());
  return facts;
}

void MakesAndOpens() {
  {
    const vmm::Tap first = Open("vmtap%d"), second = Open("vmtap%d");
    CHECK(first.made && first.name == "vmtap0" && second.name == "vmtap1");
    CHECK((fcntl(first.files[0].get(), F_GETFL) & O_NONBLOCK) != 0);
  }
  Run("ip tuntap add there mode tap");
  const vmm::Tap tap = Open("there");
  CHECK(!tap.made && tap.name == "there");
  vmm::Tap taken;
  CHECK(Fails(vmm::OpenTap("there", 1, &taken), EBUSY, "ioctl(TUNSETIFF)"));
}

void OpensSeveralFiles() {
  const vmm::Tap tap = Open("vmtap%d", 3);
  CHECK(tap.files.size() == 3 && tap.name == "vmtap0");
  CHECK(vmm::SetTapQueue(tap.files[2].get(), false).ok());
  CHECK(vmm::SetTapQueue(tap.files[2].get(), true).ok());
  CHECK(Fails(vmm::SetTapQueue(Open("one").files[0].get(), false), EINVAL, "ioctl(TUNSETQUEUE)"));

  Run("ip tuntap add shared mode tap multi_queue");
  CHECK(!Open("shared").made);
  Run("ip tuntap add lone mode tap");
  vmm::Tap refused;
  CHECK(Fails(vmm::OpenTap("lone", 2, &refused), EINVAL, "ioctl(TUNSETIFF)"));
}

void KeepsNamesWhole() {
  Open("a23456789012345");
  vmm::Tap tap;
  CHECK(Fails(vmm::OpenTap("a234567890123456", 1, &tap), EINVAL, "ioctl(TUNSETIFF)"));
  CHECK(Fails(vmm::SetTapUp("a234567890123456"), EINVAL, "ioctl(SIOCGIFFLAGS)"));
}

void SetsUp() {
  const vmm::Tap tap = Open("vmtap%d");
  CHECK(vmm::SetTapMac(tap.name, "12:34:56:78:90:ab").ok());
  CHECK(vmm::SetTapMtu(tap.name, 9000).ok());
  CHECK(vmm::SetTapAddress(tap.name, "192.0.2.1", "255.255.255.128").ok());
  CHECK(vmm::SetTapUp(tap.name).ok());

  const vmm::TapFacts facts = Ask(tap);

  CHECK(facts.name == tap.name && facts.mtu == 9000);
  CHECK(std::string(ether_ntoa(&facts.mac)) == "12:34:56:78:90:ab");
  const std::string shown = Output("ip addr show vmtap0");
  CHECK(shown.find(",UP,") != std::string::npos);
  CHECK(shown.find("192.0.2.1/25") != std::string::npos);
}

void SaysWhatItWouldNotSet() {
  const vmm::Tap tap = Open("vmtap%d");
  CHECK(
      Fails(vmm::SetTapMac(tap.name, "01:00:00:00:00:00"), EADDRNOTAVAIL, "ioctl(SIOCSIFHWADDR)"));
  CHECK(Fails(vmm::SetTapMac(tap.name, "nonsense"), EINVAL, "ioctl(SIOCSIFHWADDR)"));
  CHECK(Fails(vmm::SetTapMtu(tap.name, 1 << 20), EINVAL, "ioctl(SIOCSIFMTU)"));
  CHECK(Fails(vmm::SetTapAddress(tap.name, "192.0.2", "255.0.0.0"), EINVAL, "ioctl(SIOCSIFADDR)"));
  CHECK(Fails(vmm::SetTapAddress(tap.name, "192.0.2.1", "255.0.255.0"), EINVAL,
              "ioctl(SIOCSIFNETMASK)"));
  CHECK(Fails(vmm::SetTapUp("nothere"), ENODEV, "ioctl(SIOCGIFFLAGS)"));
}

void NamesWhatIsATap() {
  const vmm::Tap tap = Open("vmtap%d");
  std::string name;
  CHECK(vmm::NameOfTap(tap.files[0].get(), &name).ok() && name == tap.name);

  CHECK(Fails(vmm::NameOfTap(-1, &name), EBADF, "ioctl(TUNGETIFF)"));
  const vmm::Fd null(open("/dev/null", O_RDWR));
  CHECK(Fails(vmm::NameOfTap(null.get(), &name), ENOTTY, "ioctl(TUNGETIFF)"));
  const vmm::Fd plain = OpenWithoutHeaders("plain");
  CHECK(Fails(vmm::NameOfTap(plain.get(), &name), EINVAL, "ioctl(TUNGETIFF)"));
}

void Adopts() {
  const vmm::Tap tap = Open("vmtap%d");
  CHECK(fcntl(tap.files[0].get(), F_SETFL, 0) == 0);
  vmm::Fd file;
  CHECK(vmm::AdoptTap(tap.files[0].get(), &file).ok());
  CHECK(file.get() != tap.files[0].get());
  CHECK((fcntl(file.get(), F_GETFL) & O_NONBLOCK) != 0);
  CHECK(Fails(vmm::AdoptTap(-1, &file), EBADF, "fcntl(F_DUPFD_CLOEXEC)"));
}

/// Somebody else may be using it.
void LeavesWhatItAsksOf() {
  const vmm::Tap tap = Open("vmtap%d");
  const int fd = tap.files[0].get();
  const int header_bytes = 10;
  CHECK(ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) == 0 && fcntl(fd, F_SETFL, 0) == 0);
  CHECK(vmm::SetTapOffloads(fd, TUN_F_CSUM).ok());
  const auto state = [fd, &tap] {
    int bytes = 0;
    CHECK(ioctl(fd, TUNGETVNETHDRSZ, &bytes) == 0);
    return std::to_string(bytes) + " " + std::to_string(fcntl(fd, F_GETFL)) +
           Output("ethtool -k " + tap.name);
  };
  const std::string before = state();
  CHECK(before.find("tx-checksum-ip-generic: on") != std::string::npos);

  std::string name;
  CHECK(vmm::NameOfTap(fd, &name).ok());
  Ask(tap);

  CHECK(state() == before);
  bool uso = false;
  CHECK(vmm::ProbeTapUso(fd, &uso).ok());
  CHECK(Output("ethtool -k " + tap.name).find("tx-checksum-ip-generic: off") != std::string::npos);
}

void AsksAcrossNamespaces() {
  const vmm::Tap far = Open("vmtap%d");
  CHECK(vmm::SetTapMac(far.name, "12:34:56:78:90:ab").ok());
  EnterNewNetwork();
  CHECK(Ask(far).mtu == 0);

  const vmm::Tap near = Open(far.name);

  CHECK(near.name == far.name && Ask(near).mtu == 1500);
  const vmm::TapFacts facts = Ask(far);
  CHECK(std::string(ether_ntoa(&facts.mac)) == "12:34:56:78:90:ab" && facts.mtu == 0);
}

void TellsDuplicates() {
  const vmm::Tap tap = Open("vmtap%d", 2);
  const vmm::Fd duplicate(dup(tap.files[0].get()));
  CHECK(vmm::IsOneFile(tap.files[0].get(), duplicate.get()));
  CHECK(!vmm::IsOneFile(tap.files[0].get(), tap.files[1].get()));
  CHECK(!vmm::IsOneFile(tap.files[0].get(), -1));
}

}  // namespace

int main() {
  EnterNewNetwork();
  Test("a tap is made under a name of its own, or opened if it is there", MakesAndOpens);
  Test("a tap has a file a queue pair, which comes and goes", OpensSeveralFiles);
  Test("a name that the kernel would cut is refused", KeepsNamesWhole);
  Test("a tap is given its addresses and MTU, and carries frames", SetsUp);
  Test("what a tap would not take is said of the call", SaysWhatItWouldNotSet);
  Test("a file that somebody else opened is known for a tap with headers", NamesWhatIsATap);
  Test("a file that somebody else opened is made ours", Adopts);
  Test("duplicates of a file are told from other files of the tap", TellsDuplicates);
  Test("a tap that is asked what it is stays as it was", LeavesWhatItAsksOf);
  Test("a tap of another network namespace has an address, and no MTU", AsksAcrossNamespaces);
}
