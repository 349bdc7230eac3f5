# What a coordinator says to the processes around it: workers, observers, whoever started it, and
# its supervisor. One message to a packet. Nothing in here is believed before it is checked
# (control_message.h has the bounds).
@0xb7f04a1e93c6d258;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("theus::shm::wire");

struct Control {
  union {
    # worker or observer -> coordinator
    hello @0 :Hello;           # with a worker's own pidfd
    confirm @1 :UInt64;        # the number of Proceed
    detach @2 :Void;           # the worker is about to close the socket; its slot is free then
    stuck @3 :UInt64;          # the arbitration lock has stood at this sequence number too long
    stop @4 :Void;             # instead of hello: end the coordinator

    # coordinator -> worker or observer
    proceed @5 :UInt64;
    welcome @6 :Welcome;       # with data_writable (workers only), data_readable, desks
    refusal @7 :Refusal;
    stopping @8 :Void;         # with pidfds of the coordinator and, if there is one, the supervisor

    # coordinator -> supervisor
    ready @9 :Void;
    admitted @10 :Member;      # with control socket and pidfd; a spare slot's without pidfd
    welcomed @11 :Tenancy;
    detached @12 :Tenancy;
    dropped @13 :Tenancy;

    # supervisor -> coordinator
    acknowledged @14 :Acknowledgement;

    # supervisor -> starter
    started @15 :Started;
    failed @16 :Refusal;

    # worker -> coordinator: a spare slot for a child that it may fork. With one end of a socket
    # pair, which is the slot's control socket. `true`: with the pins of the slot on whose socket
    # this is said.
    reserve @17 :Bool;
    # coordinator -> worker, on the spare slot's socket
    reserved @18 :Tenancy;
    # forked child -> coordinator, on the spare slot's socket: with the child's pidfd
    adopt @19 :Void;
    # coordinator -> supervisor: with that pidfd
    adopted @20 :Member;
  }

  struct Identity {
    stamp @0 :UInt64;          # layout stamp
    layout @1 :Text;           # the same for people
    libc @2 :Text;             # name of the C library
    pidNamespace @3 :UInt64;   # inode of /proc/self/ns/pid
    pid @4 :UInt32;            # what getpid() says
    startTime @5 :UInt64;      # /proc/self/stat, field 22
  }

  struct Hello {
    identity @0 :Identity;
    role @1 :Role;
  }
  enum Role {
    worker @0;
    observer @1;
  }

  struct Welcome {
    slot @0 :UInt32;
    coordinatorPid @1 :UInt32;
    supervisorPid @2 :UInt32;  # 0: none is left
    capacityBytes @3 :UInt64;
  }

  struct Refusal {
    reason @0 :Reason;
    text @1 :Text;
  }
  enum Reason {
    other @0;
    mismatch @1;               # layout, C library, PID namespace
    foreign @2;                # another user's
    full @3;                   # no slot, no descriptor
    nameTaken @4;              # a coordinator of that name runs
    notFound @5;               # none runs (never sent: found out by the client)
    unavailable @6;            # no answer in time (never sent)
  }

  struct Tenancy {
    slot @0 :UInt32;
    admission @1 :UInt64;      # tells one tenant of the slot from the next
  }
  struct Member {
    tenancy @0 :Tenancy;
    pid @1 :UInt32;
    startTime @2 :UInt64;
  }
  struct Acknowledgement {
    tenancy @0 :Tenancy;
    accepted @1 :Bool;         # false: the supervisor could not take the descriptors
  }
  struct Started {
    coordinatorPid @0 :UInt32;
    supervisorPid @1 :UInt32;
  }
}
