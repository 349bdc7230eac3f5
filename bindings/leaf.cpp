#include "bindings/leaf.h"

#include <new>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bindings/array_view.h"
#include "bindings/cache.h"
#include "bindings/codec.h"
#include "bindings/errors.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"

namespace theus::bindings {

PyTypeObject* leaf_type = nullptr;

namespace {

// A leaf decoded for looking at. `own`: nobody else has the object.
struct Decoded {
  Ref object;
  Shape shape = Shape::kUnknown;
  bool own = false;
};

Ref path_of_key(const Node& node, PyObject* key) {
  return path_below(path_of(node.owner).get(), key);
}

// The value as an object that belongs to the caller, with writable arrays. Large ones lie in
// private views: what is not written to is not copied.
Ref decode_own(const AttachedPtr& attached, const worker::Value& value, PyObject* path) {
  if (has_buffers(value.bytes())) {
    const Ref keeper = make_private_view(attached, value);
    if (keeper) return decode_shared(value.bytes(), keeper.get(), path);
  }
  return decode_private(value.bytes(), path);
}

Ref decode_own(LeafObject* leaf) {
  return decode_own(attached_of(leaf->context), leaf->value, leaf_path(leaf).get());
}

// What the decoded object is for: to be looked at and maybe kept (kRead), or the same with buffers
// that may be views (kView).
enum class Purpose { kRead, kView };

Decoded decode(const Node& node, PyObject* key, const worker::Value& value, Purpose purpose) {
  AttachedPtr& attached = attached_of(node.context);
  CachedLeaf cached;
  if (value.record != 0) cached = find_decoded(attached->id, value.record);
  if (cached.object != nullptr) return {Ref::borrow(cached.object), cached.shape, false};
  Ref path = path_of_key(node, key);
  std::string_view bytes = value.bytes();
  bool buffers = has_buffers(bytes);
  Decoded decoded;
  decoded.own = true;
  if (buffers && purpose == Purpose::kView && value.record != 0 && value.block != 0) {
    Ref keeper = make_block_view(attached, value);
    decoded.object = decode_shared(bytes, keeper.get(), path.get());
  } else {
    decoded.object = decode_own(attached, value, path.get());
  }
  decoded.shape = cached.shape;
  bool may_be_shared = false;
  if (cached.shape != Shape::kObject) {
    decoded.shape = classify(decoded.object.get(), &may_be_shared);
  }
  bool keep_object = may_be_shared && decoded.shape != Shape::kObject;
  if (value.record != 0 && !buffers && (cached.shape == Shape::kUnknown || keep_object)) {
    keep_decoded(attached->id, value.record, keep_object ? decoded.object.get() : nullptr,
                 decoded.shape, value.size);
    decoded.own = !keep_object;
  }
  return decoded;
}

bool is_shared_array(const worker::Value& value) {
  return value.record != 0 && value.block != 0 && leaf_form(value.bytes()) == LeafForm::kArray;
}

Ref array_view(const Node& node, PyObject* key, const worker::Value& value) {
  Ref keeper = make_block_view(attached_of(node.context), value);
  return decode_shared(value.bytes(), keeper.get(), path_of_key(node, key).get());
}

LeafObject* new_leaf(const Node& node, PyObject* key, const Found& found) {
  auto* leaf = PyObject_GC_New(LeafObject, leaf_type);
  if (leaf == nullptr) throw PythonError{};
  leaf->context = node.context;
  Py_INCREF(node.context);
  leaf->entry = found.entry;
  new (&leaf->value) worker::Value(found.value);
  leaf->parent = node.owner;
  Py_INCREF(node.owner);
  leaf->key = key;
  Py_INCREF(key);
  leaf->content = leaf->shadow = leaf->baseline = nullptr;
  leaf->first_part = leaf->last_part = nullptr;
  leaf->shape = Shape::kUnknown;
  leaf->array = leaf->dirty = leaf->suspect = false;
  PyObject_GC_Track(reinterpret_cast<PyObject*>(leaf));
  return leaf;
}

// From now on the transaction knows the leaf, and asks it at commit.
void register_leaf(LeafObject* leaf) {
  ContextObject* context = leaf->context;
  if (context->leaves == nullptr) context->leaves = Ref::check(PyList_New(0)).release();
  check(PyList_Append(context->leaves, reinterpret_cast<PyObject*>(leaf)));
  leaf->entry->user = leaf;
}

// The leaves that a snapshot has decoded for itself last: `s.user.name` again and again decodes the
// user once. They refer to the context, so whoever lets go of a snapshot forgets them.
constexpr Py_ssize_t kRecentLeaves = 8;

Ref recent_leaf(ContextObject* context, std::uint64_t record) {
  if (context->leaves == nullptr || record == 0) return {};
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(context->leaves); ++i) {
    PyObject* leaf = PyList_GET_ITEM(context->leaves, i);
    if (reinterpret_cast<LeafObject*>(leaf)->value.record == record) return Ref::borrow(leaf);
  }
  return {};
}

void remember_leaf(ContextObject* context, PyObject* leaf) {
  if (context->forgets) return;
  if (context->leaves == nullptr) context->leaves = Ref::check(PyList_New(0)).release();
  check(PyList_Append(context->leaves, leaf));
  if (PyList_GET_SIZE(context->leaves) > kRecentLeaves) {
    check(PySequence_DelItem(context->leaves, 0));
  }
}

Ref proxy_of(const Ref& leaf, const Node& node, PyObject* key) {
  return make_leaf_proxy(reinterpret_cast<LeafObject*>(leaf.get()), node.owner, key, nullptr);
}

// A memoryview of shared memory, as an array is.
bool is_read_only_memory(PyObject* object) {
  return PyMemoryView_Check(object) && PyMemoryView_GET_BUFFER(object)->readonly != 0;
}

Ref give_out_in_snapshot(const Node& node, PyObject* key, const Found& found) {
  if (is_shared_array(found.value)) return array_view(node, key, found.value);
  if (Ref known = recent_leaf(node.context, found.value.record)) {
    return proxy_of(known, node, key);
  }
  Decoded decoded = decode(node, key, found.value, Purpose::kView);
  if (decoded.shape == Shape::kFrozen) return decoded.object;
  if (is_read_only_memory(decoded.object.get())) return decoded.object;
  Ref holder = Ref::steal(reinterpret_cast<PyObject*>(new_leaf(node, key, found)));
  auto* leaf = reinterpret_cast<LeafObject*>(holder.get());
  leaf->shape = decoded.shape;
  (decoded.shape == Shape::kObject ? leaf->shadow : leaf->content) = decoded.object.release();
  if (decoded.own) remember_leaf(node.context, holder.get());
  return proxy_of(holder, node, key);
}

Ref give_out_in_transaction(const Node& node, PyObject* key, const Found& found) {
  if (found.entry->user != nullptr) {
    Ref known = Ref::borrow(static_cast<PyObject*>(found.entry->user));
    return proxy_of(known, node, key);
  }
  bool array = leaf_form(found.value.bytes()) == LeafForm::kArray;
  Decoded decoded;
  if (!array) {
    decoded = decode(node, key, found.value, Purpose::kRead);
    if (decoded.shape == Shape::kFrozen) return decoded.object;
    if (found.entry->user != nullptr) return give_out_in_transaction(node, key, found);
  }
  Ref holder = Ref::steal(reinterpret_cast<PyObject*>(new_leaf(node, key, found)));
  auto* leaf = reinterpret_cast<LeafObject*>(holder.get());
  leaf->array = array;
  leaf->shape = array ? Shape::kKnown : decoded.shape;
  if (array) {
    if (is_shared_array(found.value)) {
      leaf->content = array_view(node, key, found.value).release();
    } else {
      leaf->shadow = decode_own(leaf).release();
    }
  } else {
    // What is shared with readers is copied at the first write.
    (decoded.own ? leaf->shadow : leaf->content) = decoded.object.release();
  }
  register_leaf(leaf);
  return proxy_of(holder, node, key);
}

[[noreturn]] void raise_encode_error(LeafObject* leaf) {
  Ref path = leaf_path(leaf);
  raise_at(
      ErrorClass::kEncode, path.get(), true,
      "%U cannot be stored as it is now, as it cannot be pickled (the cause says why); nothing "
      "was written",
      path_text(path.get()).get());
}

// A private copy of a private object, whatever it refers to.
Ref copy_by_encoding(LeafObject* leaf, PyObject* object) {
  try {
    LeafEncoding encoding(object);
    Ref bytes =
        Ref::check(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(encoding.size())));
    char* to = PyBytes_AS_STRING(bytes.get());
    encoding.write(to);
    return decode_private({to, encoding.size()}, leaf_path(leaf).get());
  } catch (const PythonError&) {
    raise_encode_error(leaf);
  }
}

// Whether the shadow may be something else than the committed value. In a snapshot it never is.
bool may_be_changed(const LeafObject* leaf) {
  return leaf->shadow != nullptr && (leaf->dirty || leaf->suspect);
}

void finish(LeafObject* leaf) {
  if (!may_be_changed(leaf) || !is_attached(leaf)) return;
  std::optional<LeafEncoding> now;
  try {
    now.emplace(leaf->shadow);
    if (!leaf->dirty) {
      const Ref fresh = decode_own(leaf);
      if (now->same(LeafEncoding(fresh.get()))) return;
    }
  } catch (const PythonError&) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
        PyErr_ExceptionMatches(PyExc_SystemExit)) {
      throw;
    }
    raise_encode_error(leaf);
  }
  if (!is_attached(leaf)) return;
  if (!leaf->entry->written) leaf->context->holder->log.push_back({leaf->entry, nullptr});
  char* to = transaction_of(leaf->context).put_leaf(leaf->entry, now->size(), now->has_buffers());
  now->write(to, *attached_of(leaf->context));
}

}  // namespace

Ref give_out_leaf(const Node& node, PyObject* key, const Found& found) {
  return found.entry == nullptr ? give_out_in_snapshot(node, key, found)
                                : give_out_in_transaction(node, key, found);
}

Ref leaf_to_plain(const Node& node, PyObject* key, const Found& found) {
  if (found.entry != nullptr && found.entry->user != nullptr) {
    auto* leaf = static_cast<LeafObject*>(found.entry->user);
    if (may_be_changed(leaf)) return copy_by_encoding(leaf, leaf->shadow);
  }
  if (is_shared_array(found.value)) return array_view(node, key, found.value);
  CachedLeaf cached;
  if (found.value.record != 0) {
    cached = find_decoded(attached_of(node.context)->id, found.value.record);
  }
  if (cached.shape == Shape::kFrozen && cached.object != nullptr) {
    return Ref::borrow(cached.object);
  }
  if (cached.shape == Shape::kUnknown) {
    Decoded decoded = decode(node, key, found.value, Purpose::kRead);
    if (decoded.own || decoded.shape == Shape::kFrozen) return decoded.object;
  }
  return decode_own(attached_of(node.context), found.value, path_of_key(node, key).get());
}

PyObject* leaf_content(LeafObject* leaf) {
  return leaf->shadow != nullptr ? leaf->shadow : leaf->content;
}

bool is_plain_container(PyObject* object) {
  static Imported deque_type{"collections", "deque"};
  return PyList_CheckExact(object) || PyDict_CheckExact(object) || PyTuple_CheckExact(object) ||
         PyAnySet_CheckExact(object) || PyByteArray_CheckExact(object) ||
         reinterpret_cast<PyObject*>(Py_TYPE(object)) == deque_type.get();
}

namespace {

// What is at a proxy's key in a container of a built-in class; null: nothing, or it is not known.
// The key is of a class whose lookups run no code (_leaf_parts.prepare).
Ref at_key(PyObject* container, PyObject* key) {
  if (key == nullptr) return {};
  const bool number = PyLong_CheckExact(key);
  Ref item;
  if (PyDict_CheckExact(container)) {
    const bool known =
        number || key == Py_None || PyUnicode_CheckExact(key) || PyBytes_CheckExact(key);
    if (known) item = Ref::borrow(PyDict_GetItemWithError(container, key));
  } else if (number && PySequence_Check(container)) {
    item = Ref::steal(PyObject_GetItem(container, key));
  }
  if (!item) PyErr_Clear();
  return item;
}

struct Moved {
  Ref proxy;
  Ref part;
};

// The parts of `shadow` that listed proxies stand for from now on. Nothing has been written yet, so
// each is where the proxy was told; one of which that is not known gets a copy of its own, which is
// no part of the leaf, so that a write through it is refused.
std::vector<Moved> parts_in(LeafObject* leaf, PyObject* shadow) {
  std::vector<Moved> parts;
  for (ProxyObject* proxy = leaf->first_part; proxy != nullptr; proxy = proxy->next_part) {
    parts.push_back({Ref::borrow(reinterpret_cast<PyObject*>(proxy)), Ref()});
  }
  std::unordered_map<const PyObject*, PyObject*> known;
  for (Moved& moved : parts) {
    const ProxyObject* proxy = as_proxy(moved.proxy.get());
    PyObject* container = shadow;
    if (is_proxy(proxy->parent) && as_proxy(proxy->parent)->target != nullptr) {
      const auto parent = known.find(proxy->parent);
      container = parent != known.end() ? parent->second : nullptr;
    }
    if (container != nullptr) moved.part = at_key(container, proxy->key);
    if (!moved.part || Py_TYPE(moved.part.get()) != Py_TYPE(proxy->target)) {
      moved.part = copy_by_encoding(leaf, proxy->target);
    }
    known.emplace(moved.proxy.get(), moved.part.get());
  }
  return parts;
}

}  // namespace

void list_part(LeafObject* leaf, ProxyObject* proxy) {
  // Views of an array move by themselves (theus/_array.py).
  if (proxy->target == nullptr || leaf->array) return;
  if (leaf->entry == nullptr || leaf->shadow != nullptr) return;
  proxy->listed = true;
  proxy->previous_part = leaf->last_part;
  (leaf->last_part != nullptr ? leaf->last_part->next_part : leaf->first_part) = proxy;
  leaf->last_part = proxy;
}

void unlist_part(ProxyObject* proxy) {
  LeafObject* leaf = proxy->leaf;
  ProxyObject* before = proxy->previous_part;
  ProxyObject* after = proxy->next_part;
  (before != nullptr ? before->next_part : leaf->first_part) = after;
  (after != nullptr ? after->previous_part : leaf->last_part) = before;
  proxy->next_part = proxy->previous_part = nullptr;
  proxy->listed = false;
}

PyObject* leaf_shadow(LeafObject* leaf) {
  if (leaf->shadow != nullptr) return leaf->shadow;
  Ref shadow = decode_own(leaf);
  std::vector<Moved> parts = parts_in(leaf, shadow.get());
  // Decoding may run any code, which may have come here before.
  if (leaf->shadow != nullptr) return leaf->shadow;
  leaf->shadow = shadow.release();
  const Ref content = Ref::steal(std::exchange(leaf->content, nullptr));
  // What the proxies stood for is dropped last, with `parts` and `content`.
  for (Moved& moved : parts) {
    ProxyObject* proxy = as_proxy(moved.proxy.get());
    if (!proxy->listed) continue;
    unlist_part(proxy);
    PyObject* old = std::exchange(proxy->target, moved.part.release());
    moved.part = Ref::steal(old);
  }
  return leaf->shadow;
}

bool is_attached(const LeafObject* leaf) {
  return leaf->entry != nullptr && leaf->entry->user == leaf &&
         !is_detached(leaf->entry->mapping) &&
         leaf->entry->value.kind == worker::Value::Kind::kLeaf;
}

Ref leaf_path(LeafObject* leaf) { return path_below(path_of(leaf->parent).get(), leaf->key); }

void check_leaf_writable(LeafObject* leaf) {
  check_usable(leaf->context, leaf->parent);
  Ref path;
  if (leaf->context->holder == nullptr) {
    path = leaf_path(leaf);
    raise_at(ErrorClass::kReadOnly, path.get(), false,
             "%U cannot be written through a snapshot; use engine.transaction() or engine.run(fn)",
             path_text(path.get()).get());
  }
  if (!is_attached(leaf)) {
    path = leaf_path(leaf);
    raise(ErrorClass::kTheus,
          "%U was replaced or removed by this transaction; a write to what it was would be lost",
          path_text(path.get()).get());
  }
}

void detach_leaf(worker::Entry* entry) { entry->user = nullptr; }

void finish_leaves(ContextObject* context) {
  // By index: encoding runs code that may read further leaves.
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(context->leaves); ++i) {
    Ref leaf = Ref::borrow(PyList_GET_ITEM(context->leaves, i));
    finish(reinterpret_cast<LeafObject*>(leaf.get()));
    if (context->status != Status::kOpen) {
      raise(ErrorClass::kTheus, "the transaction was ended while its leaves were encoded");
    }
  }
}

// --------------------------------------------------------------------------- Python's side

namespace {

LeafObject* as_leaf(PyObject* self) { return reinterpret_cast<LeafObject*>(self); }

int leaf_traverse(PyObject* self, visitproc visit, void* arg) {
  LeafObject* leaf = as_leaf(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(leaf->context);
  Py_VISIT(leaf->parent);
  Py_VISIT(leaf->key);
  // Not `content`: it is shared with other transactions and must not be reached through
  // gc.get_referents(). It is plain data that refers to nothing of ours, so no cycle is missed.
  Py_VISIT(leaf->shadow);
  return 0;
}

int leaf_clear(PyObject* self) {
  LeafObject* leaf = as_leaf(self);
  while (leaf->first_part != nullptr) unlist_part(leaf->first_part);
  if (leaf->entry != nullptr && leaf->entry->user == leaf) leaf->entry->user = nullptr;
  leaf->entry = nullptr;
  Py_CLEAR(leaf->context);
  Py_CLEAR(leaf->parent);
  Py_CLEAR(leaf->key);
  Py_CLEAR(leaf->content);
  Py_CLEAR(leaf->shadow);
  Py_CLEAR(leaf->baseline);
  return 0;
}

void leaf_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  leaf_clear(self);
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

LeafObject* usable(PyObject* self) {
  LeafObject* leaf = as_leaf(self);
  if (leaf->context == nullptr) raise(ErrorClass::kTheus, "this leaf is being collected");
  check_usable(leaf->context, leaf->parent);
  return leaf;
}

PyObject* get_content(PyObject* self, void*) {
  return guarded([&] { return Ref::borrow(leaf_content(usable(self))).release(); });
}

PyObject* get_shadow(PyObject* self, void*) {
  return guarded([&] { return Ref::borrow(leaf_shadow(usable(self))).release(); });
}

PyObject* get_has_shadow(PyObject* self, void*) {
  return PyBool_FromLong(as_leaf(self)->shadow != nullptr);
}

PyObject* get_path(PyObject* self, void*) {
  return guarded([&] {
    if (as_leaf(self)->context == nullptr)
      raise(ErrorClass::kTheus, "this leaf is being collected");
    return leaf_path(as_leaf(self)).release();
  });
}

PyObject* get_writable(PyObject* self, void*) {
  return guarded([&] { return PyBool_FromLong(usable(self)->context->holder != nullptr); });
}

PyObject* get_array(PyObject* self, void*) { return PyBool_FromLong(as_leaf(self)->array); }

PyObject* get_is_object(PyObject* self, void*) {
  return PyBool_FromLong(as_leaf(self)->shape == Shape::kObject);
}

PyObject* check_method(PyObject* self, PyObject*) {
  return guarded([&] {
    usable(self);
    return Ref::borrow(Py_None).release();
  });
}

PyObject* write_method(PyObject* self, PyObject*) {
  return guarded([&] {
    LeafObject* leaf = usable(self);
    check_leaf_writable(leaf);
    Ref shadow = Ref::borrow(leaf_shadow(leaf));
    leaf->dirty = true;
    return shadow.release();
  });
}

PyObject* check_write_method(PyObject* self, PyObject*) {
  return guarded([&] {
    check_leaf_writable(usable(self));
    return Ref::borrow(Py_None).release();
  });
}

PyObject* suspect_method(PyObject* self, PyObject*) {
  return guarded([&] {
    LeafObject* leaf = usable(self);
    Ref shadow = Ref::borrow(leaf_shadow(leaf));
    leaf->suspect = true;
    return shadow.release();
  });
}

PyObject* copy_method(PyObject* self, PyObject*) {
  return guarded([&] {
    LeafObject* leaf = usable(self);
    if (may_be_changed(leaf)) return copy_by_encoding(leaf, leaf->shadow).release();
    return decode_own(leaf).release();
  });
}

Ref fingerprint_of(LeafObject* leaf, PyObject* part) {
  try {
    return LeafEncoding(part != Py_None ? part : leaf_shadow(leaf)).fingerprint();
  } catch (const PythonError&) {
    raise_encode_error(leaf);
  }
}

PyObject* fingerprint_method(PyObject* self, PyObject* part) {
  return guarded([&] {
    LeafObject* leaf = usable(self);
    if (part != Py_None) return fingerprint_of(leaf, part).release();
    if (leaf->baseline == nullptr) leaf->baseline = fingerprint_of(leaf, part).release();
    return Ref::borrow(leaf->baseline).release();
  });
}

PyObject* restore_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count != 2) raise(PyExc_TypeError, "restore(part, fingerprint)");
    LeafObject* leaf = usable(self);
    Ref now = fingerprint_of(leaf, arguments[0]);
    int equal = PyObject_RichCompareBool(now.get(), arguments[1], Py_EQ);
    check(equal);
    if (equal == 0) {
      Ref fresh = decode_own(leaf);
      Py_XSETREF(leaf->shadow, fresh.release());
      Py_CLEAR(leaf->baseline);
    }
    return PyBool_FromLong(equal == 0);
  });
}

PyObject* proxy_method(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  return guarded([&] {
    if (count != 3) raise(PyExc_TypeError, "proxy(parent, key, target) takes three arguments");
    return make_leaf_proxy(usable(self), arguments[0], arguments[1], arguments[2]).release();
  });
}

PyMethodDef methods[] = {
    {"check", check_method, METH_NOARGS, "Raises unless the leaf may be read here and now."},
    {"check_write", check_write_method, METH_NOARGS,
     "Raises unless a write would reach the state."},
    {"write", write_method, METH_NOARGS, "Returns the shadow and marks it as changed."},
    {"expose", suspect_method, METH_NOARGS,
     "Returns the shadow, to be compared at commit with what it was."},
    {"copy", copy_method, METH_NOARGS, "Returns a private copy of the whole leaf as it is now."},
    {"fingerprint", fingerprint_method, METH_O,
     "How a part of the private object, or all of it (None), is encoded: bytes to be compared."},
    {"restore", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(restore_method)),
     METH_FASTCALL,
     "Undoes a change of that part since its fingerprint; returns whether there was one."},
    {"proxy", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(proxy_method)),
     METH_FASTCALL, "Makes the proxy of a part, reached from `parent` by `key`."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"content", get_content, nullptr, "What to read from; never to be changed.", nullptr},
    {"shadow", get_shadow, nullptr, "The private object.", nullptr},
    {"has_shadow", get_has_shadow, nullptr, nullptr, nullptr},
    {"path", get_path, nullptr, "Where the leaf is: a tuple of keys.", nullptr},
    {"writable", get_writable, nullptr, "Whether it is met in a transaction.", nullptr},
    {"array", get_array, nullptr, "Whether it has the array form.", nullptr},
    {"is_object", get_is_object, nullptr, "Whether it has parts of unknown classes.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

}  // namespace

void make_leaf_type() {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(leaf_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(leaf_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(leaf_clear)},
      {Py_tp_methods, methods},
      {Py_tp_getset, attributes},
      {0, nullptr},
  };
  static PyType_Spec spec = {
      "theus._theus.Leaf", sizeof(LeafObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  leaf_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
}

}  // namespace theus::bindings
