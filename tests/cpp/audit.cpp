#include "tests/cpp/audit.h"

#include <algorithm>
#include <map>
#include <set>
#include <sstream>

#include "shm/cell_class.h"
#include "shm/extents.h"
#include "shm/index.h"
#include "shm/versions.h"

namespace theus::testing {

using namespace theus::shm;

namespace {

class Auditor {
 public:
  Auditor(World& world, bool at_rest)
      : space_(world.space()), header_(space_.header()), at_rest_(at_rest) {}

  Audit run() {
    check_extents();
    const Link root(load(header_.root));
    reach_node(root, "root");
    reach_queues();
    check_cells();
    check_lists();
    check_index();
    check_slots();
    return std::move(audit_);
  }

 private:
  template <class T>
  static T load(const std::atomic<T>& word) {
    return word.load(std::memory_order_acquire);
  }
  template <class Cell>
  const Cell& cell(std::uint32_t unit) {
    return *reinterpret_cast<const Cell*>(space_.readable_base() + std::uint64_t{unit} * 16);
  }
  void fault(const std::string& what) {
    if (audit_.faults.size() < 50) audit_.faults.push_back(what);
  }
  static std::string name(const char* kind, std::uint32_t unit) {
    return std::string(kind) + " " + std::to_string(unit);
  }

  // The cell that a link names is there, linked, of the right class and named only once.
  bool reach(Link link, const char* kind, bool (*fits)(std::uint8_t)) {
    const auto place = locate_cell(space_, link.unit());
    if (!place || !fits(place->cell_class())) {
      fault(name(kind, link.unit()) + " is no cell of its kind");
      return false;
    }
    const auto& header = cell<CellHeader>(link.unit());
    if (load(header.generation) != link.generation()) {
      fault(name(kind, link.unit()) + ": link of another generation");
      return false;
    }
    if (load(header.state) != kCellLinked) fault(name(kind, link.unit()) + " is not linked");
    if (!reached_.insert(link.unit()).second) {
      fault(name(kind, link.unit()) + " is reachable twice");
      return false;
    }
    return true;
  }

  void reach_node(Link link, const std::string& where) {
    if (!reach(link, "node", [](std::uint8_t c) { return c == kNode; })) return;
    const auto& node = cell<NodeRecord>(link.unit());
    std::uint64_t live = 0;
    std::uint32_t prev = 0;
    for (Link at(load(node.first_chunk)); at;) {
      if (!reach(at, "chunk", is_chunk)) return;
      const auto& chunk = cell<OrderChunk>(at.unit());
      const ChunkShape shape = ChunkShape::unpack(load(chunk.shape));
      if (load(chunk.prev) != prev) fault(name("chunk", at.unit()) + ": wrong prev");
      std::uint32_t filled = 0;
      for (std::uint32_t i = 0; i < shape.used; ++i) {
        const Link key(load(chunk.places()[i]));
        if (!key) continue;
        ++filled;
        places_[key.unit()].insert({at.unit(), i});
        if (keys_.count(key.unit()) == 0) reach_key(key, link, where, &live);
      }
      if (filled != shape.live) fault(name("chunk", at.unit()) + ": live count is wrong");
      prev = at.unit();
      at = Link(load(chunk.next));
    }
    if (load(node.last_chunk) != prev) fault("node " + where + ": wrong last chunk");
    if (load(node.count) != live) {
      fault("node " + where + " counts " + std::to_string(load(node.count)) + " entries, has " +
            std::to_string(live));
    }
  }

  void reach_key(Link link, Link node, const std::string& where, std::uint64_t* live) {
    if (!reach(link, "key", is_key)) return;
    keys_.insert(link.unit());
    const auto& key = cell<KeyRecord>(link.unit());
    if (load(key.node) != node.raw) fault(name("key", link.unit()) + " is in another node");
    const KeyShape shape = KeyShape::unpack(load(key.shape));
    const std::string path =
        where + "." + std::string(reinterpret_cast<const char*>(&key.key[0]), shape.size);
    std::uint64_t newer_version = kNoVersion;
    bool newest = true;
    bool superseded = false;
    for (Link at(load(key.head)); at;) {
      if (!reach(at, "record", is_record)) return;
      ++audit_.records;
      const auto& record = cell<VersionRecord>(at.unit());
      const std::uint64_t version = load(record.version), died = load(record.died_at);
      if (version > load(header_.clock) || (died != 0 && died > load(header_.clock))) {
        fault(path + ": a version above the clock");
      }
      if (!newest && version >= newer_version) fault(path + ": versions do not descend");
      if (!newest && (died == 0 || died > newer_version)) fault(path + ": outlives its successor");
      superseded = superseded || died != 0;
      const RecordShape record_shape = RecordShape::unpack(load(record.shape));
      wanted_places_.push_back({link.unit(), {load(record.chunk), record_shape.place}});
      const Link value(load(record.value[0]));
      if (record_shape.kind == ValueKind::kNode) {
        if (newest && died == 0) {
          if (load(cell<NodeRecord>(value.unit()).parent) != link.raw) {
            fault(path + ": the node's parent is another key");
          }
        }
        reach_node(value, path);
      } else if (record_shape.kind >= ValueKind::kBlock) {
        reach(value, "block", is_block);
      }
      if (newest && died == 0) {
        ++*live;
        if (record_shape.kind != ValueKind::kNode && !in_dead_) ++audit_.live_leaves;
      }
      newest = false;
      newer_version = version;
      at = Link(load(record.prev));
    }
    if (superseded && !shape.queued && !in_dead_) {
      fault(path + ": superseded versions, but not in the retained queue");
    }
    if (shape.queued) queued_.insert(link.unit());
    if (!shape.queued && load(key.retained_next) != 0) {
      fault(path + ": not in the retained queue, but names a next one there");
    }
  }

  void reach_queues() {
    in_dead_ = true;
    std::uint64_t dead = 0;
    for (auto unit = static_cast<std::uint32_t>(load(header_.dead_head)); unit != 0; ++dead) {
      const auto& node = cell<NodeRecord>(unit);
      reach_dead_node(Link(load(node.cell.generation), unit));
      unit = load(node.dead_next);
    }
    if (dead != load(header_.dead_count)) fault("dead queue: wrong count");
    for (std::uint32_t i = 0; i < load(header_.slots_high); ++i) {
      for (std::uint32_t unit = load(header_.slots[i].nursery); unit != 0;) {
        const auto& node = cell<NodeRecord>(unit);
        reach_dead_node(Link(load(node.cell.generation), unit));
        unit = load(node.dead_next);
      }
    }
    in_dead_ = false;
    std::uint64_t retained = 0;
    std::uint32_t last = 0;
    for (auto unit = static_cast<std::uint32_t>(load(header_.retained_head)); unit != 0;
         ++retained) {
      const auto& key = cell<KeyRecord>(unit);
      if (!KeyShape::unpack(load(key.shape)).queued) fault("retained queue: key without its flag");
      if (load(key.head) == 0 && keys_.count(unit) == 0) {
        reach(Link(load(key.cell.generation), unit), "key", is_key);
        bodiless_.insert(unit);
      } else {
        queued_.erase(unit);
      }
      last = unit;
      unit = load(key.retained_next);
      if (retained > 10'000'000) {
        fault("retained queue: a circle");
        break;
      }
    }
    if (retained != load(header_.retained_count)) fault("retained queue: wrong count");
    if (last != load(header_.retained_tail)) fault("retained queue: wrong tail");
    if (!queued_.empty()) fault("a key says it is queued and is not");
    for (const auto& [key, place] : wanted_places_) {
      if (places_[key].count(place) == 0) fault(name("key", key) + ": a record without its place");
    }
  }

  void reach_dead_node(Link link) {
    // Counts of a node that is being taken apart mean nothing.
    const std::size_t before = audit_.faults.size();
    reach_node(link, "(dead)");
    auto& faults = audit_.faults;
    faults.erase(std::remove_if(faults.begin() + static_cast<std::ptrdiff_t>(before), faults.end(),
                                [](const std::string& f) {
                                  return f.find("counts") != std::string::npos ||
                                         f.find("live count") != std::string::npos;
                                }),
                 faults.end());
  }

  void check_extents() {
    const std::uint64_t count = load(header_.extent_count);
    const std::uint64_t reserve_at = load(header_.reserve_at);
    if (reserve_at + reserve_extents(count) > count || reserve_at >= count) {
      fault("the reserve begins at a wrong place");
    }
    std::uint64_t used = 0, backed = 0;
    for (std::uint64_t at = 0; at < count;) {
      const ExtentHead head = ExtentHead::unpack(load(header_.extents[at].head));
      if (head.length == 0 || at + head.length > count) {
        fault("extent " + std::to_string(at) + ": a run of wrong length");
        return;
      }
      for (std::uint64_t i = at + 1; i < at + head.length; ++i) {
        if (load(header_.extents[i].head) != 0) fault("a head inside a run");
      }
      if (at < reserve_at && at + head.length > reserve_at) fault("a run reaches into the reserve");
      if (at >= reserve_at && head.kind != ExtentKind::kFreeBacked &&
          head.kind != ExtentKind::kFreeRaw && head.kind != ExtentKind::kCells && at_rest_) {
        fault("extent " + std::to_string(at) + " has not come back to the reserve");
      }
      if (at_rest_ && head.kind == ExtentKind::kGranting) {
        fault("extent " + std::to_string(at) + " was taken out and not put back");
      }
      const bool is_free =
          head.kind == ExtentKind::kFreeBacked || head.kind == ExtentKind::kFreeRaw;
      if (!is_free) used += head.length;
      if (head.kind != ExtentKind::kFreeRaw) backed += head.length;
      if (at_rest_ && head.owner != kNoSlot && !is_free) {
        fault("extent " + std::to_string(at) + " still has owner " + std::to_string(head.owner));
      }
      runs_.push_back({at, head});
      at += head.length;
    }
    if (used != load(header_.used_extents)) fault("used_extents is wrong");
    if (backed != load(header_.backed_extents)) fault("backed_extents is wrong");
  }

  void check_cells() {
    const std::uint64_t base = load(header_.extents_offset);
    std::size_t linked = 0;
    for (const auto& [at, head] : runs_) {
      const auto first = static_cast<std::uint32_t>((base + at * kExtentBytes) / kUnitBytes);
      if (head.kind == ExtentKind::kRun) {
        const bool is_linked = load(cell<CellHeader>(first).state) == kCellLinked;
        linked += is_linked;
        if (is_linked && reached_.count(first) == 0) fault("a linked run is unreachable");
        if (!is_linked && at_rest_) fault("a run that nobody has");
      }
      if (head.kind != ExtentKind::kCells) continue;
      const std::uint32_t cells = cells_per_extent(head.cell_class);
      const std::uint32_t step = kCellBytes[head.cell_class] / kUnitBytes;
      std::set<std::uint32_t> listed;
      for (std::uint32_t i = load(header_.extents[at].free_list); i != kNoCell;) {
        if (i >= cells || !listed.insert(i).second) {
          fault("extent " + std::to_string(at) + ": its free list is no list");
          break;
        }
        i = load(cell<CellHeader>(first + i * step).state);
      }
      if (listed.size() != load(header_.extents[at].free_count)) fault("a free count is wrong");
      for (std::uint32_t i = 0; i < cells; ++i) {
        const std::uint32_t unit = first + i * step;
        const bool is_linked = load(cell<CellHeader>(unit).state) == kCellLinked;
        linked += is_linked;
        if (is_linked && reached_.count(unit) == 0) {
          fault("leak: linked cell " + std::to_string(unit) + " of class " +
                std::to_string(head.cell_class) + " is unreachable");
        }
        if (is_linked && listed.count(i) != 0) fault("a linked cell is in a free list");
        if (!is_linked) {
          ++audit_.held_cells;
          if (at_rest_ && listed.count(i) == 0) fault("a free cell that nobody has");
        }
      }
    }
    if (linked != reached_.size()) fault("linked cells and reachable cells differ in number");
  }

  // Collect lists and orphans: doubly linked, and exactly the extents that say so.
  void check_lists() {
    std::set<std::uint64_t> seen;
    auto walk = [&](std::uint32_t first, std::uint16_t owner, std::size_t cell_class) {
      std::uint32_t prev = 0;
      for (std::uint32_t at = first; at != 0;) {
        const ExtentRecord& record = header_.extents[at - 1];
        const ExtentHead head = ExtentHead::unpack(load(record.head));
        if (head.kind != ExtentKind::kCells || head.owner != owner ||
            head.cell_class != cell_class || load(record.listed) != 1 ||
            load(record.list_prev) != prev || !seen.insert(at - 1).second) {
          fault("a collect list is broken at extent " + std::to_string(at - 1));
          return;
        }
        prev = at;
        at = load(record.list_next);
      }
    };
    for (std::size_t c = 0; c < kCellClassCount; ++c) {
      walk(load(header_.orphans[c]), kNoSlot, c);
      for (std::uint16_t i = 0; i < load(header_.slots_high); ++i) {
        walk(load(header_.slots[i].collect[c]), i, c);
      }
    }
    for (const auto& [at, head] : runs_) {
      if (head.kind == ExtentKind::kCells && load(header_.extents[at].listed) == 1 &&
          seen.count(at) == 0) {
        fault("extent " + std::to_string(at) + " says it is listed and is not");
      }
    }
  }

  const Word* bucket(std::uint32_t b) {
    const std::uint32_t extent = load(header_.directory[b / kBucketsPerSegment]);
    if (extent == 0) return nullptr;
    return reinterpret_cast<const Word*>(space_.readable_base() + load(header_.extents_offset) +
                                         std::uint64_t{extent - 1} * kExtentBytes) +
           b % kBucketsPerSegment;
  }

  void check_index() {
    std::uint64_t last_sort = 0, keys = 0, markers = 1;
    for (Link at(load(*bucket(0))); at != kListEnd;) {
      std::uint64_t sort = 0;
      if (at.is_marker()) {
        const Word* word = bucket(at.unit());
        if (word == nullptr || load(*word) == 0) {
          fault("index: a marker without its bucket");
          return;
        }
        sort = marker_sort(at.unit());
        at = Link(load(*word));
        ++markers;
      } else {
        const auto& key = cell<KeyRecord>(at.unit());
        if (load(key.cell.generation) != at.generation()) {
          fault("index: a link of another generation");
          return;
        }
        if (keys_.count(at.unit()) == 0) fault("index: a key that no node has");
        sort = load(key.sort);
        ++keys;
        at = Link(load(key.next));
      }
      if (sort < last_sort) fault("index: out of order");
      last_sort = sort;
      if (keys + markers > 100'000'000) {
        fault("index: a circle");
        return;
      }
    }
    if (keys != keys_.size()) {
      fault("index: holds " + std::to_string(keys) + " keys of " + std::to_string(keys_.size()));
    }
    if (keys != load(header_.key_count)) fault("index: key_count is wrong");
  }

  void check_slots() {
    for (std::uint32_t i = 0; i < load(header_.slots_high); ++i) {
      const Desk& desk = space_.desk_readable(i);
      const bool is_free = load(header_.slots[i].state) == 0;
      if (at_rest_ && !is_free) fault("slot " + std::to_string(i) + " is not free");
      if (!is_free) continue;
      for (std::uint32_t p = 0; p < load(desk.pins_high); ++p) {
        if (load(desk.pins[p]) != 0) fault("a pin of a free slot");
      }
      for (std::uint32_t p = 0; p < load(desk.block_pins_high); ++p) {
        if (load(desk.block_pins[p]) != 0) fault("a block pin of a free slot");
      }
      if (load(desk.request) != load(header_.slots[i].answer) >> 8) {
        fault("a free slot waits for an answer");
      }
    }
  }

  const Space& space_;
  const Header& header_;
  bool at_rest_;
  bool in_dead_ = false;
  Audit audit_;
  std::set<std::uint32_t> reached_, keys_, queued_, bodiless_;
  std::map<std::uint32_t, std::set<std::pair<std::uint32_t, std::uint32_t>>> places_;
  std::vector<std::pair<std::uint32_t, std::pair<std::uint32_t, std::uint32_t>>> wanted_places_;
  std::vector<std::pair<std::uint64_t, ExtentHead>> runs_;
};

}  // namespace

std::string Audit::text() const {
  std::ostringstream text;
  for (const std::string& each : faults) text << each << "\n";
  return text.str();
}

Audit audit(World& world, bool at_rest) {
  while (!world.arbiter().lock_for(1'000'000'000)) {
  }
  Audit result = Auditor(world, at_rest).run();
  world.arbiter().unlock();
  return result;
}

}  // namespace theus::testing
