#include "shm/control_message.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "shm/control.capnp.h"
#include "shm/layout.h"

namespace theus::shm {
namespace {

// ------------------------------------------------------------------------------- to the wire

capnp::Text::Reader cut(const std::string& text, std::string* shortened) {
  if (text.size() <= kControlTextMax) {
    return {text.c_str(), text.size()};
  }
  *shortened = text.substr(0, kControlTextMax - 3) + "...";
  return {shortened->c_str(), shortened->size()};
}

struct Writer {
  wire::Control::Builder control;
  std::string shortened;

  void write(wire::Control::Identity::Builder out, const Identity& identity) {
    out.setStamp(identity.stamp);
    out.setLayout(cut(identity.layout, &shortened));
    out.setLibc(cut(identity.libc, &shortened));
    out.setPidNamespace(identity.pid_namespace);
    out.setPid(identity.pid);
    out.setStartTime(identity.start_time);
  }
  void write(wire::Control::Tenancy::Builder out, const Tenancy& tenancy) {
    out.setSlot(tenancy.slot);
    out.setAdmission(tenancy.admission);
  }
  void write(wire::Control::Refusal::Builder out, const Refusal& refusal) {
    out.setReason(static_cast<wire::Control::Reason>(refusal.reason));
    out.setText(cut(refusal.text, &shortened));
  }

  void operator()(const Hello& hello) {
    auto out = control.initHello();
    write(out.initIdentity(), hello.identity);
    out.setRole(static_cast<wire::Control::Role>(hello.role));
  }
  void operator()(const Confirm& confirm) { control.setConfirm(confirm.number); }
  void operator()(const Detach&) { control.setDetach(); }
  void operator()(const Stuck& stuck) { control.setStuck(stuck.sequence); }
  void operator()(const Stop&) { control.setStop(); }
  void operator()(const Proceed& proceed) { control.setProceed(proceed.number); }
  void operator()(const Welcome& welcome) {
    auto out = control.initWelcome();
    out.setSlot(welcome.slot);
    out.setCoordinatorPid(welcome.coordinator_pid);
    out.setSupervisorPid(welcome.supervisor_pid);
    out.setCapacityBytes(welcome.capacity_bytes);
  }
  void operator()(const Refusal& refusal) { write(control.initRefusal(), refusal); }
  void operator()(const Stopping&) { control.setStopping(); }
  void operator()(const Ready&) { control.setReady(); }
  void operator()(const Admitted& admitted) {
    auto out = control.initAdmitted();
    write(out.initTenancy(), admitted.tenancy);
    out.setPid(admitted.pid);
    out.setStartTime(admitted.start_time);
  }
  void operator()(const Welcomed& welcomed) { write(control.initWelcomed(), welcomed.tenancy); }
  void operator()(const Detached& detached) { write(control.initDetached(), detached.tenancy); }
  void operator()(const Dropped& dropped) { write(control.initDropped(), dropped.tenancy); }
  void operator()(const Acknowledged& acknowledged) {
    auto out = control.initAcknowledged();
    write(out.initTenancy(), acknowledged.tenancy);
    out.setAccepted(acknowledged.accepted);
  }
  void operator()(const Started& started) {
    auto out = control.initStarted();
    out.setCoordinatorPid(started.coordinator_pid);
    out.setSupervisorPid(started.supervisor_pid);
  }
  void operator()(const Failed& failed) { write(control.initFailed(), failed.refusal); }
  void operator()(const Reserve& reserve) { control.setReserve(reserve.copy); }
  void operator()(const Reserved& reserved) { write(control.initReserved(), reserved.tenancy); }
  void operator()(const Adopt&) { control.setAdopt(); }
  void operator()(const Adopted& adopted) {
    auto out = control.initAdopted();
    write(out.initTenancy(), adopted.tenancy);
    out.setPid(adopted.pid);
    out.setStartTime(adopted.start_time);
  }
};

// ----------------------------------------------------------------------------- from the wire

// What is wrong with a message that Cap'n Proto itself finds well-formed.
struct Unacceptable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::string read_text(capnp::Text::Reader text) {
  if (text.size() > kControlTextMax) {
    throw Unacceptable("a text of " + std::to_string(text.size()) + " bytes");
  }
  std::string result(text.begin(), text.size());
  for (char& c : result) {  // texts end in logs and on terminals
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      c = '?';
    }
  }
  return result;
}

Tenancy read(wire::Control::Tenancy::Reader in) {
  if (in.getSlot() >= kMaxSlots) {
    throw Unacceptable("slot " + std::to_string(in.getSlot()));
  }
  return {in.getSlot(), in.getAdmission()};
}

Identity read(wire::Control::Identity::Reader in) {
  return {in.getStamp(),        read_text(in.getLayout()), read_text(in.getLibc()),
          in.getPidNamespace(), in.getPid(),               in.getStartTime()};
}

Hello read(wire::Control::Hello::Reader in) {
  if (in.getRole() > wire::Control::Role::OBSERVER) {
    throw Unacceptable("an unknown role");
  }
  return {read(in.getIdentity()), static_cast<Role>(in.getRole())};
}

Refusal read(wire::Control::Refusal::Reader in) {
  // A reason that a later version may know is no reason to lose the text.
  const bool known = in.getReason() <= wire::Control::Reason::UNAVAILABLE;
  return {known ? static_cast<Reason>(in.getReason()) : Reason::kOther, read_text(in.getText())};
}

Welcome read(wire::Control::Welcome::Reader in) {
  if (in.getSlot() >= kMaxSlots) {
    throw Unacceptable("slot " + std::to_string(in.getSlot()));
  }
  return {in.getSlot(), in.getCoordinatorPid(), in.getSupervisorPid(), in.getCapacityBytes()};
}

ControlMessage read(wire::Control::Reader in) {
  switch (in.which()) {
    case wire::Control::HELLO:
      return read(in.getHello());
    case wire::Control::CONFIRM:
      return Confirm{in.getConfirm()};
    case wire::Control::DETACH:
      return Detach{};
    case wire::Control::STUCK:
      return Stuck{in.getStuck()};
    case wire::Control::STOP:
      return Stop{};
    case wire::Control::PROCEED:
      return Proceed{in.getProceed()};
    case wire::Control::WELCOME:
      return read(in.getWelcome());
    case wire::Control::REFUSAL:
      return read(in.getRefusal());
    case wire::Control::STOPPING:
      return Stopping{};
    case wire::Control::READY:
      return Ready{};
    case wire::Control::ADMITTED: {
      auto admitted = in.getAdmitted();
      return Admitted{read(admitted.getTenancy()), admitted.getPid(), admitted.getStartTime()};
    }
    case wire::Control::WELCOMED:
      return Welcomed{read(in.getWelcomed())};
    case wire::Control::DETACHED:
      return Detached{read(in.getDetached())};
    case wire::Control::DROPPED:
      return Dropped{read(in.getDropped())};
    case wire::Control::ACKNOWLEDGED: {
      auto acknowledged = in.getAcknowledged();
      return Acknowledged{read(acknowledged.getTenancy()), acknowledged.getAccepted()};
    }
    case wire::Control::STARTED:
      return Started{in.getStarted().getCoordinatorPid(), in.getStarted().getSupervisorPid()};
    case wire::Control::FAILED:
      return Failed{read(in.getFailed())};
    case wire::Control::RESERVE:
      return Reserve{in.getReserve()};
    case wire::Control::RESERVED:
      return Reserved{read(in.getReserved())};
    case wire::Control::ADOPT:
      return Adopt{};
    case wire::Control::ADOPTED: {
      auto adopted = in.getAdopted();
      return Adopted{read(adopted.getTenancy()), adopted.getPid(), adopted.getStartTime()};
    }
  }
  throw Unacceptable("an unknown kind of message");
}

}  // namespace

std::vector<std::byte> encode_control(const ControlMessage& message) {
  std::array<capnp::word, 512> scratch{};
  capnp::MallocMessageBuilder builder(kj::arrayPtr(scratch.data(), scratch.size()));
  std::visit(Writer{builder.initRoot<wire::Control>(), {}}, message);
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  const auto bytes = words.asBytes();
  std::vector<std::byte> result(bytes.size());
  std::memcpy(result.data(), bytes.begin(), bytes.size());
  return result;
}

std::optional<ControlMessage> decode_control(std::span<const std::byte> bytes, std::string* why) {
  if (bytes.empty() || bytes.size() > kControlBytesMax ||
      bytes.size() % sizeof(capnp::word) != 0) {
    *why = std::to_string(bytes.size()) + " bytes are no message";
    return std::nullopt;
  }
  // Cap'n Proto reads in place and wants its words aligned.
  std::array<capnp::word, kControlBytesMax / sizeof(capnp::word)> words;
  std::memcpy(static_cast<void*>(words.data()), bytes.data(), bytes.size());
  // Bounds what a small message full of overlapping pointers can make us read, and how deep.
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 4 * words.size();
  options.nestingLimit = 8;
  try {
    capnp::FlatArrayMessageReader reader(
        kj::arrayPtr(words.data(), bytes.size() / sizeof(capnp::word)), options);
    return read(reader.getRoot<wire::Control>());
  } catch (const kj::Exception& error) {
    *why = std::string("malformed: ") + error.getDescription().cStr();
  } catch (const Unacceptable& error) {
    *why = error.what();
  }
  return std::nullopt;
}

const char* control_name(const ControlMessage& message) {
  static constexpr std::array<const char*, std::variant_size_v<ControlMessage>> kNames = {
      "hello", "confirm", "detach",   "stuck",    "stop",     "proceed",
      "welcome", "refusal", "stopping", "ready",  "admitted", "welcomed",
      "detached", "dropped", "acknowledged", "started", "failed", "reserve",
      "reserved", "adopt",   "adopted"};
  return kNames[message.index()];
}

}  // namespace theus::shm
