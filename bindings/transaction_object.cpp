#include "bindings/transaction_object.h"

#include "bindings/context.h"
#include "bindings/errors.h"
#include "bindings/key_codec.h"
#include "bindings/leaf.h"
#include "bindings/node.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"
#include "bindings/represent.h"

namespace theus::bindings {
namespace {

struct TransactionObject {
  PyObject_HEAD ContextObject* context;  // strong
};

PyTypeObject* transaction_type = nullptr;

ContextObject* context_of(PyObject* self) {
  ContextObject* context = reinterpret_cast<TransactionObject*>(self)->context;
  if (context == nullptr) raise(ErrorClass::kTheus, "this transaction is being collected");
  return context;
}

ContextObject* usable_context_of(PyObject* self) {
  ContextObject* context = context_of(self);
  check_usable(context, reinterpret_cast<PyObject*>(context));
  return context;
}

int transaction_traverse(PyObject* self, visitproc visit, void* arg) {
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(reinterpret_cast<PyObject*>(reinterpret_cast<TransactionObject*>(self)->context));
  return 0;
}

int transaction_clear(PyObject* self) {
  auto* transaction = reinterpret_cast<TransactionObject*>(self);
  if (transaction->context != nullptr && transaction->context->transaction == self) {
    transaction->context->transaction = nullptr;
  }
  Py_CLEAR(transaction->context);
  return 0;
}

void transaction_dealloc(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  PyObject_GC_UnTrack(self);
  transaction_clear(self);
  PyObject_GC_Del(self);
  Py_DECREF(type);
}

PyObject* represent(PyObject* self) {
  return guarded([&] {
    const ContextObject* context = reinterpret_cast<TransactionObject*>(self)->context;
    if (context == nullptr) return Ref::check(PyUnicode_FromString("Transaction()")).release();
    return Ref::check(
               PyUnicode_FromFormat("Transaction(snapshot_version=%llu, %U, %s)",
                                    static_cast<unsigned long long>(context->version),
                                    options_text(context->serializable, context->label).get(),
                                    status_text(context)))
        .release();
  });
}

PyObject* get_version(PyObject* self, void*) {
  return guarded(
      [&] { return Ref::check(PyLong_FromUnsignedLongLong(context_of(self)->version)).release(); });
}

PyObject* get_committed(PyObject* self, void*) {
  return guarded([&] {
    ContextObject* context = context_of(self);
    if (context->status != Status::kCommitted) return Ref::borrow(Py_None).release();
    return Ref::check(PyLong_FromUnsignedLongLong(context->committed)).release();
  });
}

PyObject* get_isolation(PyObject* self, void*) {
  return guarded([&] {
    return Ref::check(
               PyUnicode_FromString(context_of(self)->serializable ? "serializable" : "snapshot"))
        .release();
  });
}

PyObject* get_label(PyObject* self, void*) {
  return guarded([&] {
    PyObject* label = context_of(self)->label;
    return Ref::borrow(label != nullptr ? label : Py_None).release();
  });
}

// The value that `proxy` stands for, for the caller to change.
Ref shadow_of_proxy(PyObject* object) {
  const ProxyObject* proxy = as_proxy(object);
  if (proxy->leaf == nullptr) return Ref::borrow(object);
  if (proxy->target != nullptr) {
    static Imported shadow_of_part{"theus._leaf", "shadow_of_part"};
    check_leaf_writable(proxy->leaf);
    return call(shadow_of_part.get(), object, reinterpret_cast<PyObject*>(proxy->leaf),
                proxy->target);
  }
  check_leaf_writable(proxy->leaf);
  Ref shadow = Ref::borrow(leaf_shadow(proxy->leaf));
  proxy->leaf->suspect = true;
  return shadow;
}

PyObject* get_shadow_method(PyObject* self, PyObject* target) {
  return guarded([&] {
    ContextObject* context = usable_context_of(self);
    auto* owner = reinterpret_cast<PyObject*>(context);
    Ref object = Ref::borrow(target);
    if (is_proxy(target)) {
      if (as_proxy(target)->context != context) {
        raise(ErrorClass::kTheus, "get_shadow() was given a proxy of another transaction");
      }
    } else {
      Ref read = Ref::check(PyObject_GetAttrString(owner, "read"));
      object = call(read.get(), target);
    }
    check_writable(node_of(owner));
    return (is_proxy(object.get()) ? shadow_of_proxy(object.get()) : object).release();
  });
}

bool is_part_of_state(const worker::Entry* entry) { return !is_detached(entry->mapping); }

PyObject* get_pending_data(PyObject* self, void*) {
  return guarded([&] {
    ContextObject* context = usable_context_of(self);
    Ref data = Ref::check(PyDict_New());
    if (context->holder == nullptr) return data.release();
    auto* owner = reinterpret_cast<PyObject*>(context);
    Ref read = Ref::check(PyObject_GetAttrString(owner, "read"));
    // A copy, as reading back may add to the log.
    std::vector<LoggedWrite> log = context->holder->log;
    for (const LoggedWrite& write : log) {
      const worker::Entry* entry = write.entry;
      if (entry == nullptr || !entry->written || !is_part_of_state(entry) ||
          entry->value.kind == worker::Value::Kind::kAbsent) {
        continue;
      }
      Ref path = entry_path(entry);
      Ref value = call(read.get(), path.get());
      if (is_proxy(value.get())) value = shadow_of_proxy(value.get());
      check(PyDict_SetItem(data.get(), spell_path(path.get()).get(), value.get()));
    }
    for (Py_ssize_t i = 0; context->leaves != nullptr && i < PyList_GET_SIZE(context->leaves);
         ++i) {
      auto* leaf = reinterpret_cast<LeafObject*>(PyList_GET_ITEM(context->leaves, i));
      if (leaf->shadow == nullptr || !(leaf->dirty || leaf->suspect) || !is_attached(leaf))
        continue;
      Ref path = spell_path(leaf_path(leaf).get());
      check(PyDict_SetItem(data.get(), path.get(), leaf->shadow));
    }
    return data.release();
  });
}

void append_operation(const Ref& list, const char* name, const Ref& path) {
  Ref spelled = spell_path(path.get());
  Ref pair = Ref::check(Py_BuildValue("(sO)", name, spelled.get()));
  check(PyList_Append(list.get(), pair.get()));
}

PyObject* get_delta_log(PyObject* self, void*) {
  return guarded([&] {
    ContextObject* context = usable_context_of(self);
    Ref list = Ref::check(PyList_New(0));
    if (context->holder == nullptr) return list.release();
    for (const LoggedWrite& write : context->holder->log) {
      if (write.mapping != nullptr) {
        Ref path = write.mapping->bound_at != nullptr ? entry_path(write.mapping->bound_at)
                                                      : Ref::check(PyTuple_New(0));
        append_operation(list, "clear", path);
      } else if (write.entry->written && is_part_of_state(write.entry)) {
        bool absent = write.entry->value.kind == worker::Value::Kind::kAbsent;
        append_operation(list, absent ? "delete" : "write", entry_path(write.entry));
      }
    }
    for (Py_ssize_t i = 0; context->leaves != nullptr && i < PyList_GET_SIZE(context->leaves);
         ++i) {
      auto* leaf = reinterpret_cast<LeafObject*>(PyList_GET_ITEM(context->leaves, i));
      if (leaf->dirty && is_attached(leaf) && !leaf->entry->written) {
        append_operation(list, "write", leaf_path(leaf));
      }
    }
    return list.release();
  });
}

PyObject* rollback_method(PyObject* self, PyObject*) {
  return guarded([&] {
    ContextObject* context = usable_context_of(self);
    if (is_busy(context)) {
      raise(ErrorClass::kTheus, "rollback() in the middle of another operation of the transaction");
    }
    end_context(context, Status::kRolledBack);
    return Ref::borrow(Py_None).release();
  });
}

PyObject* on_commit_method(PyObject* self, PyObject* callback) {
  return guarded([&] {
    ContextObject* context = usable_context_of(self);
    if (PyCallable_Check(callback) == 0) {
      raise(PyExc_TypeError, "on_commit() takes a function without arguments");
    }
    if (context->holder == nullptr) {
      raise(ErrorClass::kReadOnly, "a snapshot is never committed; use engine.transaction()");
    }
    if (context->callbacks == nullptr) context->callbacks = Ref::check(PyList_New(0)).release();
    check(PyList_Append(context->callbacks, callback));
    return Ref::borrow(callback).release();
  });
}

PyMethodDef methods[] = {
    {"get_shadow", get_shadow_method, METH_O,
     "get_shadow($self, target, /)\n--\n\n"
     "Returns the private, writable object behind a path or a proxy; of a mapping node its proxy, "
     "of a plain value the value. What was changed in it is found at commit."},
    {"rollback", rollback_method, METH_NOARGS,
     "rollback($self, /)\n--\n\n"
     "Ends the transaction and drops all it did; leaving the `with` then does nothing."},
    {"on_commit", on_commit_method, METH_O,
     "on_commit($self, callback, /)\n--\n\n"
     "Has a function called in this process, once, after the commit is acknowledged. An error in "
     "it goes to sys.unraisablehook. A crash may skip it."},
    {nullptr, nullptr, 0, nullptr},
};

PyGetSetDef attributes[] = {
    {"snapshot_version", get_version, nullptr, "Version that is read.", nullptr},
    {"version", get_committed, nullptr,
     "None before the commit; then the version it made (of a read-only one: the snapshot's).",
     nullptr},
    {"isolation", get_isolation, nullptr, "'serializable' or 'snapshot'.", nullptr},
    {"label", get_label, nullptr, "The label given to transaction(), or None.", nullptr},
    {"pending_data", get_pending_data, nullptr, "dict: path -> private value, of what was written.",
     nullptr},
    {"delta_log", get_delta_log, nullptr,
     "list of ('write' | 'delete' | 'clear', path), in order of the first write.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr},
};

}  // namespace

void make_transaction_type(PyObject* module) {
  static PyType_Slot slots[] = {
      {Py_tp_dealloc, reinterpret_cast<void*>(transaction_dealloc)},
      {Py_tp_traverse, reinterpret_cast<void*>(transaction_traverse)},
      {Py_tp_clear, reinterpret_cast<void*>(transaction_clear)},
      {Py_tp_repr, reinterpret_cast<void*>(represent)},
      {Py_tp_methods, methods},
      {Py_tp_getset, attributes},
      {Py_tp_doc, const_cast<char*>("One open transaction. For the thread that opened it.")},
      {0, nullptr},
  };
  static PyType_Spec spec = {
      "theus.Transaction", sizeof(TransactionObject), 0,
      Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
  transaction_type = reinterpret_cast<PyTypeObject*>(Ref::check(PyType_FromSpec(&spec)).release());
  check(
      PyObject_SetAttrString(module, "Transaction", reinterpret_cast<PyObject*>(transaction_type)));
}

Ref transaction_object_of(PyObject* context) {
  auto* owner = reinterpret_cast<ContextObject*>(context);
  if (owner->transaction != nullptr) return Ref::borrow(owner->transaction);
  auto* transaction = PyObject_GC_New(TransactionObject, transaction_type);
  if (transaction == nullptr) throw PythonError{};
  Py_INCREF(context);
  transaction->context = owner;
  owner->transaction = reinterpret_cast<PyObject*>(transaction);
  PyObject_GC_Track(owner->transaction);
  return Ref::steal(owner->transaction);
}

}  // namespace theus::bindings
