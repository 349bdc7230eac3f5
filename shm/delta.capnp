# What one transaction submits for arbitration. Written by a worker into its submission area, read
# by whoever holds the arbitration lock. Links are raw shm::Link values; nothing in here is
# believed before it is checked.
@0xd3a1c6f2b8e45790;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("theus::shm::wire");

struct Delta {
  sequence @0 :UInt64;       # equals the request word
  snapshot @1 :UInt64;       # version it was made from
  checks @2 :List(Check);    # what must still be as it was; all of them before any operation
  absences @3 :List(Absence);  # keys that must still be absent
  operations @4 :List(Operation);
  journalRegion @5 :UInt64;  # Link of a leased run for the journal, 0: the header's own will do

  # Checks of a large read set that its worker has made itself: they held at `validatedAt`, a
  # version from `snapshot` on. Only those are made again whose subject has been written since.
  validatedAt @6 :UInt64;
  validated @7 :List(Check);          # by rising subject
  validatedAbsences @8 :List(Absence);
  absenceSorts @9 :List(UInt64);      # rising; the KeyRecord::sort of each of validatedAbsences

  deletes @10 :List(UInt64);  # Links of the KeyRecords to delete, after all operations. One word
                              # each: a full state has no room for a long message
  endsTurn @11 :Bool;         # the slot's turn is this delta's, if it has one, and over once it is
                              # decided
}

# One per leaf that is read, one per binding on the way to it.
struct Check {
  subject @0 :UInt64;        # key: Link of the KeyRecord; otherwise Link of the NodeRecord
  seen @1 :UInt64;           # key: version seen; emptiness: 1 if it was empty; place
  kind @2 :Kind;
  enum Kind {
    key @0;                  # the newest version of the key is `seen`, and alive
    structure @1;            # no entry came or went in the node since the snapshot
    emptiness @2;            # the node is empty, or not, as it was
    present @3;              # the key is there, whatever its value; `seen`: 0, or its place in the
                             # order (unit of the chunk << 32 | place + 1)
    last @4;                 # the last entry of the node is the one at that place: `seen`, as above
  }
}

struct Absence {
  node @0 :UInt64;
  key @1 :Data;
  compared @2 :UInt16;
}

struct Operation {
  kind @0 :Kind;
  node @1 :UInt64;           # Link of the NodeRecord written to
  key @2 :UInt64;            # put: Link of the KeyRecord
  record @3 :UInt64;         # put, insert: Link of the filled VersionRecord. What it reaches (a
                             # block, or a new node with all below it) is filled, too.
  newKey @4 :UInt64;         # insert: Link of a filled KeyRecord, used if the key has none yet
  spareChunk @5 :UInt64;     # put, insert: Link of an empty order chunk, used if it needs a place
  moved @6 :Bool;            # put: deleted and inserted again, so at the end of the order now
  basis @7 :UInt64;          # the version that the record was made from, if it is not the delta's
                             # snapshot: it conflicts with what is younger than that
  fold @8 :Fold;             # of the operand onto the newest number, whatever it is: the arbiter
                             # fills the record. Conflicts only if there is no number any more
  operand @9 :UInt64;        # as in a record: two's complement, or IEEE bits
  operandIsReal @10 :Bool;
  enum Fold {
    none @0;
    add @1;
    maximum @2;
    minimum @3;
  }
  enum Kind {
    put @0;                  # replace the value of a key that has a KeyRecord
    insert @1;               # give a value to a key that had no KeyRecord at the snapshot
  }
}
