#include "bindings/values.h"

#include <algorithm>

#include "bindings/errors.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"

namespace theus::bindings {
namespace {

Imported state_type{"theus._state", "State"};
Imported leaf_marker{"theus._leaf_marker", "Leaf"};

bool is_scalar(PyObject* value) {
  if (value == Py_None || PyBool_Check(value) || PyFloat_CheckExact(value) ||
      PyBytes_CheckExact(value)) {
    return true;
  }
  if (PyLong_CheckExact(value)) {
    int overflow = 0;
    PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow == 0;
  }
  if (!PyUnicode_CheckExact(value)) return false;
  if (PyUnicode_AsUTF8AndSize(value, nullptr) != nullptr) return true;
  PyErr_Clear();  // lone surrogates: pickled
  return false;
}

// The context that a value is being encoded for, on this thread.
thread_local ContextObject* encoding_for = nullptr;

struct EncodingFor {
  explicit EncodingFor(ContextObject* context) : before(std::exchange(encoding_for, context)) {}
  ~EncodingFor() { encoding_for = before; }
  EncodingFor(const EncodingFor&) = delete;
  EncodingFor& operator=(const EncodingFor&) = delete;
  ContextObject* before;
};

ContextObject* context_of(PyObject* owner) {
  return is_proxy(owner) ? as_proxy(owner)->context : reinterpret_cast<ContextObject*>(owner);
}

// A value of another open transaction is not part of what this one has read, so a copy of it could
// not be checked at commit.
void check_same_transaction(ContextObject* from, ContextObject* to, PyObject* proxy) {
  if (from == nullptr) raise(ErrorClass::kTheus, "this proxy is being collected");
  check_usable(from, proxy);
  if (from->holder == nullptr || from == to) return;
  Ref source = path_of(proxy);
  raise(ErrorClass::kTheus, "%U belongs to another open transaction; assign theus.plain(...) of it",
        path_text(source.get()).get());
}

}  // namespace

void check_may_be_encoded(ContextObject* from, PyObject* proxy) {
  if (encoding_for != nullptr) check_same_transaction(from, encoding_for, proxy);
}

void check_may_be_copied(PyObject* into, PyObject* value) {
  if (is_proxy(value)) check_same_transaction(context_of(value), context_of(into), value);
}

bool put_scalar(worker::Transaction& transaction, worker::Entry* entry, PyObject* value) {
  if (PyLong_CheckExact(value)) {
    int overflow = 0;
    long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow != 0) return false;
    transaction.put_int(entry, number);
  } else if (PyUnicode_CheckExact(value)) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(value, &size);
    if (text == nullptr) {
      PyErr_Clear();
      return false;
    }
    transaction.put_str(entry, {text, static_cast<std::size_t>(size)});
  } else if (PyFloat_CheckExact(value)) {
    transaction.put_float(entry, PyFloat_AS_DOUBLE(value));
  } else if (PyBool_Check(value)) {
    transaction.put_bool(entry, value == Py_True);
  } else if (value == Py_None) {
    transaction.put_none(entry);
  } else if (PyBytes_CheckExact(value)) {
    transaction.put_bytes(
        entry, {PyBytes_AS_STRING(value), static_cast<std::size_t>(PyBytes_GET_SIZE(value))});
  } else {
    return false;
  }
  return true;
}

// Walks a value and lists the steps that write it.
class EncodedValue::Builder {
 public:
  Builder(EncodedValue* to, PyObject* owner, PyObject* key) : to_(to), owner_(owner) {
    if (key != nullptr) trail_.push_back(key);
  }

  void value(PyObject* object, Step step) {
    Ref source = Ref::borrow(object);
    if (is_proxy(object) || Py_TYPE(object) == context_type) {
      check_copyable(object);
      source = plain(object);
    } else if (reinterpret_cast<PyObject*>(Py_TYPE(object)) == state_type.get()) {
      source = plain(object);
    }
    // A whole leaf stays one, also if it is a dict.
    bool whole_leaf = is_proxy(object) && as_proxy(object)->leaf != nullptr &&
                      as_proxy(object)->target == nullptr;
    if (is_scalar(source.get())) {
      step.kind = Step::Kind::kScalar;
      step.scalar = source;
      to_->steps_.push_back(std::move(step));
    } else if (PyDict_CheckExact(source.get()) && !whole_leaf) {
      mapping(source.get(), std::move(step));
    } else {
      leaf(source.get(), std::move(step));
    }
  }

 private:
  Ref path() const {
    Ref path = path_of(owner_);
    for (PyObject* key : trail_) path = path_below(path.get(), key);
    return path;
  }

  void check_copyable(PyObject* object) {
    if (Py_TYPE(object) == context_type) {
      Ref where = path();
      raise_at(ErrorClass::kEncode, where.get(), false,
               "%U: a context cannot be stored; store a part of it, or ctx.to_dict()",
               path_text(where.get()).get());
    }
    check_same_transaction(as_proxy(object)->context, context_of(owner_), object);
  }

  void mapping(PyObject* dict, Step step) {
    if (std::find(open_.begin(), open_.end(), dict) != open_.end()) {
      Ref where = path();
      raise_at(ErrorClass::kEncode, where.get(), false,
               "%U: a dict contains itself; the state is a tree (theus.leaf(...) keeps cycles)",
               path_text(where.get()).get());
    }
    if (open_.size() >= kNestingMax) {
      Ref where = path();
      raise_at(ErrorClass::kEncode, where.get(), false,
               "dicts are nested more than %d deep; use theus.leaf(...) for the inner ones",
               kNestingMax);
    }
    step.kind = Step::Kind::kOpen;
    to_->steps_.push_back(std::move(step));
    open_.push_back(dict);
    // A list of the items, as encoding one may run code that changes the dict.
    Ref items = Ref::check(PyDict_Items(dict));
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(items.get()); ++i) {
      PyObject* pair = PyList_GET_ITEM(items.get(), i);
      Step item;
      item.key_object = Ref::borrow(PyTuple_GET_ITEM(pair, 0));
      item.key = encode_key(item.key_object.get());
      trail_.push_back(item.key_object.get());
      value(PyTuple_GET_ITEM(pair, 1), std::move(item));
      trail_.pop_back();
    }
    open_.pop_back();
    Step close;
    close.kind = Step::Kind::kClose;
    to_->steps_.push_back(std::move(close));
  }

  std::unique_ptr<EncodedKey> encode_key(PyObject* key) {
    try {
      return std::make_unique<EncodedKey>(key, owner_);
    } catch (const PythonError&) {
      // The same complaint with the whole path: the key may lie deep inside the value.
      Ref above = path();
      Ref where = path_text(above.get());
      raise_at(ErrorClass::kEncode, above.get(), true,
               "%U (%.100s) cannot be a key in %U (the cause says why)", shown_key(key).get(),
               Py_TYPE(key)->tp_name, where.get());
    }
  }

  void leaf(PyObject* object, Step step) {
    Ref source = Ref::borrow(object);
    if (reinterpret_cast<PyObject*>(Py_TYPE(object)) == leaf_marker.get()) {
      source = Ref::check(PyObject_GetAttrString(object, "value"));
      if (is_proxy(source.get())) source = plain(source.get());
    }
    step.kind = Step::Kind::kLeaf;
    try {
      EncodingFor mark(context_of(owner_));
      step.leaf.emplace(source.get());
    } catch (const PythonError&) {
      if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt) ||
          PyErr_ExceptionMatches(PyExc_SystemExit)) {
        throw;
      }
      Ref where = path();
      raise_at(ErrorClass::kEncode, where.get(), true,
               "%U: a value of type %.100s cannot be stored, as it cannot be pickled (the cause "
               "says why); nothing was changed",
               path_text(where.get()).get(), Py_TYPE(source.get())->tp_name);
    }
    step.scalar = source;  // keeps the buffers' owner
    to_->steps_.push_back(std::move(step));
  }

  EncodedValue* to_;
  PyObject* owner_;
  std::vector<PyObject*> trail_;  // keys from `owner` to here
  std::vector<PyObject*> open_;   // dicts we are inside of
};

EncodedValue::EncodedValue(PyObject* value, PyObject* owner, PyObject* key) {
  Builder(this, owner, key).value(value, Step{});
}

void EncodedValue::put(worker::Transaction& transaction, worker::Entry* entry, Attached& attached,
                       bool* partly) const {
  std::vector<worker::Mapping*> open;
  for (const Step& step : steps_) {
    if (step.kind == Step::Kind::kClose) {
      open.pop_back();
      continue;
    }
    worker::Entry* at = step.key ? transaction.entry(open.back(), step.key->view()) : entry;
    switch (step.kind) {
      case Step::Kind::kScalar:
        put_scalar(transaction, at, step.scalar.get());
        break;
      case Step::Kind::kLeaf:
        step.leaf->write(transaction.put_leaf(at, step.leaf->size(), step.leaf->has_buffers()),
                         attached);
        break;
      default:
        open.push_back(transaction.put_mapping(at));
    }
    *partly = true;
  }
}

}  // namespace theus::bindings
