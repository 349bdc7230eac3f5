#include "bindings/node.h"

#include "bindings/cache.h"
#include "bindings/errors.h"
#include "bindings/leaf.h"
#include "bindings/merging.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"
#include "bindings/values.h"

namespace theus::bindings {
namespace {

using Kind = worker::Value::Kind;

Imported missing_error{"theus.errors", "_missing"};

constexpr Py_ssize_t kNamesSuggestedFrom = 50;

void before_write(const Node& node, worker::Entry* entry) {
  if (entry->user != nullptr) detach_leaf(entry);
  forget_operations(node.context, entry);
  if (!entry->written) node.context->holder->log.push_back({entry, nullptr});
}

// True if `value` is what `entry` already holds, given out by this very transaction: `x += y`
// assigns the proxy back after it has changed what the proxy stands for.
bool is_own_place(const Node& node, worker::Entry* entry, PyObject* value) {
  if (!is_proxy(value)) return false;
  const ProxyObject* proxy = as_proxy(value);
  if (proxy->context != node.context || proxy->target != nullptr) return false;
  if (proxy->leaf != nullptr) return proxy->leaf->entry == entry && is_attached(proxy->leaf);
  return entry->value.kind == Kind::kMapping && proxy->mapping == entry->child &&
         proxy->mapping != nullptr && !is_detached(proxy->mapping);
}

void put(const Node& node, worker::Entry* entry, const EncodedValue& value) {
  bool partly = false;
  before_write(node, entry);
  try {
    value.put(transaction_of(node.context), entry, *attached_of(node.context), &partly);
  } catch (const worker::CapacityError&) {
    translate_exception();
    if (partly) {
      // Half of a value has been written and cannot be taken back by itself.
      PyObject *type = nullptr, *error = nullptr, *traceback = nullptr;
      PyErr_Fetch(&type, &error, &traceback);
      PyErr_NormalizeException(&type, &error, &traceback);
      doom_context(node.context, error);
      PyErr_Restore(type, error, traceback);
    }
    throw PythonError{};
  }
}

// The node that a found mapping is, with `owner` as where it was reached from.
Node child_of(const Node& node, const Found& found, PyObject* owner) {
  Node child{node.context, nullptr, 0, owner};
  if (found.entry != nullptr) {
    child.mapping = transaction_of(node.context).child(found.entry);
  } else {
    child.id = found.value.node;
  }
  return child;
}

}  // namespace

Ref entry_path(const worker::Entry* entry) {
  Ref keys = Ref::check(PyList_New(0));
  for (const worker::Entry* at = entry; at != nullptr; at = at->mapping->bound_at) {
    check(PyList_Append(keys.get(), decode_key(at->key).get()));
  }
  check(PyList_Reverse(keys.get()));
  return Ref::check(PyList_AsTuple(keys.get()));
}

Ref scalar(const worker::Value& value) {
  switch (value.kind) {
    case Kind::kNone:
      return Ref::borrow(Py_None);
    case Kind::kFalse:
      return Ref::borrow(Py_False);
    case Kind::kTrue:
      return Ref::borrow(Py_True);
    case Kind::kInt:
      return Ref::check(PyLong_FromLongLong(value.integer));
    case Kind::kFloat:
      return Ref::check(PyFloat_FromDouble(value.real));
    case Kind::kStr:
      return Ref::check(
          PyUnicode_DecodeUTF8(value.data, static_cast<Py_ssize_t>(value.size), "strict"));
    case Kind::kBytes:
      return Ref::check(PyBytes_FromStringAndSize(value.data, static_cast<Py_ssize_t>(value.size)));
    default:
      return Ref();
  }
}

Node node_of(PyObject* owner) {
  Node node;
  node.owner = owner;
  if (Py_TYPE(owner) == context_type) {
    node.context = reinterpret_cast<ContextObject*>(owner);
    check_usable(node.context, owner);
    node.mapping = node.context->root;
    node.id = node.context->root_node;
    return node;
  }
  const ProxyObject* proxy = as_proxy(owner);
  if (proxy->context == nullptr || proxy->leaf != nullptr) {
    raise(PyExc_TypeError, "this proxy does not stand for a mapping node");
  }
  node.context = proxy->context;
  check_usable(node.context, owner);
  node.mapping = proxy->mapping;
  node.id = proxy->node;
  return node;
}

Found look_up(const Node& node, const EncodedKey& key) {
  if (!node.writable()) return {nullptr, snapshot_of(node.context).find(node.id, key.view())};
  worker::Transaction& transaction = transaction_of(node.context);
  worker::Entry* entry = transaction.entry(node.mapping, key.view());
  return {entry, transaction.read(entry)};
}

Ref give_out(const Node& node, PyObject* key, const Found& found) {
  if (found.value.kind == Kind::kMapping) {
    Node child = child_of(node, found, nullptr);
    return make_node_proxy(node, key, child.mapping, child.id);
  }
  if (found.value.kind == Kind::kLeaf) return give_out_leaf(node, key, found);
  return scalar(found.value);
}

Ref get_item(const Node& node, PyObject* key) {
  EncodedKey encoded(key, node.owner);
  Found found = look_up(node, encoded);
  return found.absent() ? Ref() : give_out(node, key, found);
}

bool is_detached(const worker::Mapping* mapping) {
  while (!mapping->detached) {
    if (mapping->bound_at == nullptr) return false;
    mapping = mapping->bound_at->mapping;
  }
  return true;
}

void check_writable(const Node& node, PyObject* key) {
  if (!node.writable()) {
    Ref path = path_of(node.owner);
    if (key != nullptr) path = path_below(path.get(), key);
    raise_at(ErrorClass::kReadOnly, path.get(), false,
             "%U cannot be written through a snapshot; use engine.transaction() or engine.run(fn)",
             path_text(path.get()).get());
  }
  if (is_detached(node.mapping)) {
    Ref path = path_of(node.owner);
    raise(ErrorClass::kTheus,
          "%U was replaced or removed by this transaction; a write to what it was would be lost",
          path_text(path.get()).get());
  }
}

void set_item(const Node& node, PyObject* key, PyObject* value) {
  check_writable(node, key);
  EncodedKey encoded(key, node.owner);
  worker::Transaction& transaction = transaction_of(node.context);
  if (!is_proxy(value)) {
    worker::Entry* entry = transaction.entry(node.mapping, encoded.view());
    bool logged = entry->written;
    worker::Entry* had_leaf = entry->user != nullptr ? entry : nullptr;
    if (had_leaf == nullptr && put_scalar(transaction, entry, value)) {
      forget_operations(node.context, entry);
      if (!logged) node.context->holder->log.push_back({entry, nullptr});
      return;
    }
  } else if (is_own_place(node, transaction.entry(node.mapping, encoded.view()), value)) {
    return;
  }
  EncodedValue whole(value, node.owner, key);
  // Encoding may have run code that changed the transaction.
  check_usable(node.context, node.owner);
  check_writable(node);
  put(node, transaction.entry(node.mapping, encoded.view()), whole);
}

bool delete_item(const Node& node, PyObject* key) {
  check_writable(node, key);
  EncodedKey encoded(key, node.owner);
  Found found = look_up(node, encoded);
  if (found.absent()) return false;
  before_write(node, found.entry);
  transaction_of(node.context).erase(found.entry);
  return true;
}

bool has_key(const Node& node, PyObject* key) {
  EncodedKey encoded(key, node.owner);
  if (!node.writable()) return !look_up(node, encoded).absent();
  worker::Transaction& transaction = transaction_of(node.context);
  return transaction.contains(transaction.entry(node.mapping, encoded.view()));
}

Py_ssize_t size(const Node& node) {
  return static_cast<Py_ssize_t>(node.writable() ? transaction_of(node.context).size(node.mapping)
                                                 : snapshot_of(node.context).size(node.id));
}

bool is_empty(const Node& node) {
  return node.writable() ? transaction_of(node.context).empty(node.mapping)
                         : snapshot_of(node.context).empty(node.id);
}

void clear(const Node& node) {
  check_writable(node);
  transaction_of(node.context).clear(node.mapping);
  node.context->holder->log.push_back({nullptr, node.mapping});
}

void write_items(const Node& node, PyObject* items) {
  check_writable(node);
  struct Item {
    std::unique_ptr<EncodedKey> key;
    std::optional<EncodedValue> value;  // absent: it is assigned to its own place
  };
  worker::Transaction& transaction = transaction_of(node.context);
  std::vector<Item> encoded;
  encoded.reserve(static_cast<std::size_t>(PyList_GET_SIZE(items)));
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items); ++i) {
    PyObject* key = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 0);
    PyObject* value = PyTuple_GET_ITEM(PyList_GET_ITEM(items, i), 1);
    Item item;
    item.key = std::make_unique<EncodedKey>(key, node.owner);
    if (!is_own_place(node, transaction.entry(node.mapping, item.key->view()), value)) {
      item.value.emplace(value, node.owner, key);
    }
    encoded.push_back(std::move(item));
  }
  check_usable(node.context, node.owner);
  check_writable(node);
  bool any = false;
  for (const Item& item : encoded) {
    if (!item.value) continue;
    try {
      put(node, transaction.entry(node.mapping, item.key->view()), *item.value);
    } catch (const PythonError&) {
      if (any && node.context->doom == nullptr) {
        PyObject *type = nullptr, *error = nullptr, *traceback = nullptr;
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        doom_context(node.context, error);
        PyErr_Restore(type, error, traceback);
      }
      throw;
    }
    any = true;
  }
}

Ref value_to_plain(const Node& node, PyObject* key, const Found& found, int depth) {
  if (found.value.kind == Kind::kLeaf) return leaf_to_plain(node, key, found);
  if (found.value.kind != Kind::kMapping) return scalar(found.value);
  // A short-lived proxy, so that an error below can tell its path.
  Node child = child_of(node, found, nullptr);
  Ref owner = make_node_proxy(node, key, child.mapping, child.id);
  child.owner = owner.get();
  return to_plain(child, depth + 1);
}

namespace {

constexpr Py_ssize_t kCachedItemsMax = 64;

// A number that stands for the content of a node in a snapshot; 0: not known, or no snapshot.
std::uint64_t content_version(const Node& node) {
  if (node.writable()) return 0;
  std::uint64_t version = snapshot_of(node.context).subtree_version(node.id);
  // 0 is the version of a node that has not changed since it was made.
  return version == worker::Snapshot::kUnknownVersion ? 0 : version + 1;
}

// Keeps a node's content if all of it is frozen for certain: then a shallow copy is a whole one.
void keep_if_frozen(const Node& node, std::uint64_t version, const Ref& content) {
  if (PyDict_GET_SIZE(content.get()) > kCachedItemsMax) return;
  Py_ssize_t position = 0;
  PyObject* value = nullptr;
  while (PyDict_Next(content.get(), &position, nullptr, &value)) {
    if (is_simple(value)) continue;
    bool may_be_shared = false;
    if (classify(value, &may_be_shared) != Shape::kFrozen || !may_be_shared) return;
  }
  Ref copy = Ref::check(PyDict_Copy(content.get()));
  keep_content(attached_of(node.context)->id, node.id, version, copy.get());
}

}  // namespace

Ref to_plain(const Node& node, int depth) {
  if (depth > kNestingMax) {
    raise(ErrorClass::kDecode, "mapping nodes are nested more than %d deep", kNestingMax);
  }
  std::uint64_t version = content_version(node);
  if (version != 0) {
    PyObject* known = find_content(attached_of(node.context)->id, node.id, version);
    if (known != nullptr) return Ref::check(PyDict_Copy(known));
  }
  Ref result = Ref::check(PyDict_New());
  NodeIterator iterator(node);
  while (iterator.next(node)) {
    Ref key = iterator.key();
    Ref value = value_to_plain(node, key.get(), iterator.found(node), depth);
    check(PyDict_SetItem(result.get(), key.get(), value.get()));
  }
  if (version != 0) keep_if_frozen(node, version, result);
  return result;
}

void raise_missing(const Node& node, PyObject* key, bool as_attribute) {
  Ref near = peek_keys(node, kNamesSuggestedFrom);
  Ref path = path_of(node.owner);
  Ref error =
      call(missing_error.get(), key, path.get(), near.get(), as_attribute ? Py_True : Py_False);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
  throw PythonError{};
}

Ref peek_keys(const Node& node, Py_ssize_t limit) {
  Ref keys = Ref::check(PyList_New(0));
  auto add = [&keys](shm::KeyView view) {
    Ref key = decode_key(view);
    check(PyList_Append(keys.get(), key.get()));
  };
  try {
    // A transaction would note what it is asked; a snapshot of the same node does not.
    std::optional<worker::Snapshot> own;
    const worker::Snapshot* snapshot = nullptr;
    std::uint64_t id = node.id;
    if (node.writable()) {
      id = node.mapping->node;
      if (id != 0) snapshot = &own.emplace(attached_of(node.context)->session);
      for (const worker::Entry* entry = node.mapping->first_new;
           entry != nullptr && PyList_GET_SIZE(keys.get()) < limit; entry = entry->next_new) {
        if (entry->value.kind != Kind::kAbsent) add(entry->key);
      }
    } else {
      snapshot = &snapshot_of(node.context);
    }
    if (snapshot != nullptr) {
      worker::Snapshot::Cursor cursor = snapshot->iterate(id);
      shm::KeyView key;
      worker::Value value;
      while (PyList_GET_SIZE(keys.get()) < limit && snapshot->next(cursor, &key, &value)) add(key);
    }
  } catch (const worker::Error&) {
    // No pin left, or the node is gone meanwhile: then there is nothing to suggest.
  }
  return keys;
}

// ------------------------------------------------------------------------------ iteration

NodeIterator::NodeIterator(const Node& node, worker::Order order) {
  if (node.writable()) {
    cursor_ = transaction_of(node.context).iterate(node.mapping, order);
  } else {
    snapshot_cursor_ = snapshot_of(node.context).iterate(node.id, order);
  }
}

bool NodeIterator::next(const Node& node) {
  if (!node.writable()) {
    return snapshot_of(node.context).next(snapshot_cursor_, &key_, &value_);
  }
  if (cursor_.resizes != node.mapping->resizes) {
    PyErr_SetString(PyExc_RuntimeError, "mapping changed size during iteration");
    throw PythonError{};
  }
  entry_ = transaction_of(node.context).next(cursor_);
  return entry_ != nullptr;
}

Ref NodeIterator::key() const { return decode_key(entry_ != nullptr ? entry_->key : key_); }

Found NodeIterator::found(const Node& node) {
  if (entry_ == nullptr) return {nullptr, value_};
  return {entry_, transaction_of(node.context).read(entry_)};
}

}  // namespace theus::bindings
