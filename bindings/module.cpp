// The extension module: makes the types, and binds what is not hot through pybind11.
#include <pybind11/pybind11.h>

#include <string>

#include "bindings/array_view.h"
#include "bindings/classify.h"
#include "bindings/codec.h"
#include "bindings/context.h"
#include "bindings/difference.h"
#include "bindings/engine.h"
#include "bindings/errors.h"
#include "bindings/guard.h"
#include "bindings/key_codec.h"
#include "bindings/leaf.h"
#include "bindings/leaf_iterator.h"
#include "bindings/node.h"
#include "bindings/paths.h"
#include "bindings/proxy.h"
#include "bindings/transaction_object.h"
#include "bindings/values.h"
#include "bindings/view.h"
#include "bindings/waiting.h"
#include "worker/connection.h"

namespace py = pybind11;

namespace theus::bindings {
namespace {

py::object give(Ref object) { return py::reinterpret_steal<py::object>(object.release()); }

py::tuple start_coordinator(const std::string& executable, const std::string& name,
                            std::uint64_t capacity_bytes, bool embedded,
                            const std::string& log_path) {
  worker::StartOptions options;
  options.executable = executable;
  options.name = name;
  options.capacity_bytes = capacity_bytes;
  options.embedded = embedded;
  options.log_path = log_path;
  worker::Started started;
  {
    py::gil_scoped_release release;
    started = worker::start_coordinator(options);
  }
  return py::make_tuple(started.name, started.pid, started.supervisor_pid, started.lifeline_fd);
}

// The two halves of the leaf codec by themselves, for the tests of damaged leaves.
py::bytes encode_leaf(const py::object& value) {
  LeafEncoding encoding(value.ptr());
  std::string bytes(encoding.size(), '\0');
  encoding.write(bytes.data());
  return py::bytes(bytes);
}

py::object decode_leaf(const std::string& leaf) {
  Ref path = Ref::check(PyTuple_New(0));
  return give(decode_private(leaf, path.get()));
}

// A buffer of shared memory as one that can be written to (array_view.h), else None.
py::object private_view(const py::memoryview& shared) {
  const Ref view = private_view_of(shared.ptr());
  return view ? give(view) : py::none();
}

// (canonical form, spelling) of a key.
py::tuple encode_key(const py::object& key, const py::object& owner) {
  EncodedKey encoded(key.ptr(), owner.ptr());
  std::string_view whole = encoded.view().whole();
  std::size_t compared = encoded.view().compared;
  return py::make_tuple(py::bytes(std::string(whole.substr(0, compared))),
                        py::bytes(std::string(whole.substr(compared))));
}

py::object decode_key_bytes(const std::string& canonical, const std::string& spelling) {
  std::string whole = canonical + spelling;
  return give(decode_key(shm::KeyView(whole.data(), static_cast<std::uint16_t>(whole.size()),
                                      static_cast<std::uint16_t>(canonical.size()))));
}

// (leaf, target or None) of a leaf proxy; (None, None) of a node's.
py::tuple parts(const py::object& object) {
  if (!is_proxy(object.ptr())) return py::make_tuple(py::none(), py::none());
  const ProxyObject* proxy = as_proxy(object.ptr());
  auto* leaf = reinterpret_cast<PyObject*>(proxy->leaf);
  return py::make_tuple(
      leaf != nullptr ? py::reinterpret_borrow<py::object>(leaf) : py::none(),
      proxy->target != nullptr ? py::reinterpret_borrow<py::object>(proxy->target) : py::none());
}

// (parent, key) of a proxy: how it was reached.
py::tuple origin(const py::object& object) {
  const ProxyObject* proxy = as_proxy(object.ptr());
  return py::make_tuple(
      py::reinterpret_borrow<py::object>(proxy->parent),
      proxy->key != nullptr ? py::reinterpret_borrow<py::object>(proxy->key) : py::none());
}

// The part that the proxy stands for has another key in its container now.
void moved(const py::object& object, const py::object& key) {
  ProxyObject* proxy = as_proxy(object.ptr());
  Py_XSETREF(proxy->key, Ref::borrow(key.ptr()).release());
}

// (function(object), whether nothing else refers to the result: then it is new).
py::tuple call_fresh(const py::object& function, const py::object& object) {
  Ref result = call(function.ptr(), object.ptr());
  const bool fresh = Py_REFCNT(result.get()) == 1;
  return py::make_tuple(give(result), fresh);
}

// A State is gone; parts of it may live on. (What its context has decoded refers to the context.)
void forget_leaves(const py::object& root) {
  ContextObject* context = nullptr;
  if (Py_TYPE(root.ptr()) == context_type) {
    context = reinterpret_cast<ContextObject*>(root.ptr());
  } else if (is_proxy(root.ptr())) {
    context = as_proxy(root.ptr())->context;
  }
  if (context == nullptr || context->holder != nullptr) return;
  context->forgets = true;
  Py_CLEAR(context->leaves);
}

// For State.update(): whether what is at `path` (a tuple), or anything below it, has changed since
// `version`. None: it has not. Otherwise the version that changed it, 0 if that is not known.
py::object changed_since(const py::object& ctx, const py::tuple& path, std::uint64_t version,
                         bool was_present) {
  Node node = node_of(ctx.ptr());
  worker::Transaction& transaction = transaction_of(node.context);
  worker::Mapping* mapping = node.mapping;
  for (std::size_t i = 0; i < path.size(); ++i) {
    EncodedKey key(PyTuple_GET_ITEM(path.ptr(), static_cast<Py_ssize_t>(i)), ctx.ptr());
    worker::Entry* entry = transaction.entry(mapping, key.view());
    const worker::Value& value = transaction.read(entry);
    if (value.kind == worker::Value::Kind::kAbsent) {
      return was_present ? py::cast(0) : py::none();
    }
    if (entry->seen_version > version) return py::cast(entry->seen_version);
    bool last = i + 1 == path.size();
    if (value.kind != worker::Value::Kind::kMapping) {
      // A leaf above the path: writing there will say so.
      return last && !was_present ? py::cast(0) : py::none();
    }
    mapping = transaction.child(entry);
    if (!last) continue;
    worker::Snapshot newest(attached_of(node.context)->session);
    std::uint64_t below = newest.subtree_version(mapping->node);
    if (below == worker::Snapshot::kUnknownVersion) return py::cast(0);
    if (below > version) return py::cast(below);
  }
  return py::none();
}

py::tuple coordinator_pids(const std::string& name) {
  worker::Attachment attachment;
  {
    py::gil_scoped_release release;
    // Attaching and leaving again: its answer names both processes.
    worker::Session session(worker::attach(name));
    attachment.coordinator_pid = session.coordinator_pid();
    attachment.supervisor_pid = session.supervisor_pid();
  }
  return py::make_tuple(attachment.coordinator_pid, attachment.supervisor_pid);
}

void bind_functions(py::module_& module) {
  module.def("start_coordinator", &start_coordinator, py::arg("executable"), py::arg("name"),
             py::arg("capacity_bytes"), py::arg("embedded"), py::arg("log_path"));
  module.def("stop_coordinator", &worker::stop_coordinator, py::arg("name"), py::arg("timeout_s"),
             py::call_guard<py::gil_scoped_release>());
  module.def("changed_since", &changed_since);
  module.def("coordinator_pids", &coordinator_pids);
  module.def("socket_path", &worker::socket_path, py::arg("name"));
  {
    // The one public function here: its docstring has a signature that inspect reads.
    py::options options;
    options.disable_function_signatures();
    module.def(
        "plain", [](const py::object& object) { return give(plain(object.ptr())); },
        "plain(object, /)\n--\n\n"
        "Returns plain objects for a proxy, a context or a State, and for exact lists, tuples and "
        "dicts that hold any of these; everything else as it is.\n\n"
        "What it returns is private, and stays valid after the transaction; arrays are copied in "
        "a transaction, and read-only views in a snapshot or State. Serves as `default` of "
        "json.dumps(). Raises TheusError for a proxy whose transaction has ended.");
  }
  module.def("plain_result",
             [](const py::object& object) { return give(plain_result(object.ptr())); });
  module.def("is_proxy", [](const py::object& object) { return is_proxy(object.ptr()); });
  module.def("is_frozen", [](const py::object& object) { return is_frozen(object.ptr()); });
  module.def("is_array", [](const py::object& object) { return is_array(object.ptr()); });
  module.def("classify", [](const py::object& object) {
    static constexpr const char* kNames[] = {"unknown", "frozen", "flat", "known", "object"};
    return kNames[static_cast<int>(classify(object.ptr()))];
  });
  module.def("parts", &parts);
  module.def("check_may_be_copied", [](const py::object& into, const py::object& value) {
    check_may_be_copied(into.ptr(), value.ptr());
  });
  module.def("origin", &origin);
  module.def("moved", &moved);
  module.def("forget_leaves", &forget_leaves);
  module.def("call_fresh", &call_fresh);
  module.def("parse_path", [](const py::object& path) { return give(parse_path(path.ptr())); });
  module.def("spell_path", [](const py::tuple& path) { return give(spell_path(path.ptr())); });
  module.def("path_of", [](const py::object& owner) { return give(path_of(owner.ptr())); });
  module.def("encoding_now", &encoding_now);
  module.def("private_view", &private_view);
  module.def("copy_into", [](const py::object& leaf, const py::object& value) {
    return give(copy_into(reinterpret_cast<LeafObject*>(leaf.ptr()), value.ptr()));
  });
  module.def("adopted_part", [](Py_ssize_t number) { return give(adopted_part(number)); });
  module.def("encode_leaf", &encode_leaf);
  module.def("decode_leaf", &decode_leaf);
  module.def("encode_key", &encode_key, py::arg("key"), py::arg("owner") = py::none());
  module.def("decode_key", &decode_key_bytes);
}

void make_types(PyObject* module) {
  count_forks();
  make_block_view_type();
  make_leaf_type();
  make_leaf_iterator_type();
  make_view_types(module);
  make_proxy_type();
  make_context_type();
  make_transaction_type(module);
  make_guard_type(module);
  make_engine_type(module);
  check(PyObject_SetAttrString(module, "SupervisorProxy", reinterpret_cast<PyObject*>(proxy_type)));
  check(
      PyObject_SetAttrString(module, "ProcessContext", reinterpret_cast<PyObject*>(context_type)));
}

}  // namespace
}  // namespace theus::bindings

PYBIND11_MODULE(_theus, module) {
  using namespace theus;
  module.doc() = "The C++ half of theus; use the package's own names instead.";
  py::register_local_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const bindings::PythonError&) {
      return;  // the indicator is set already
    } catch (const worker::Error&) {
      bindings::translate_exception();
    }
  });
  try {
    bindings::make_types(module.ptr());
  } catch (const bindings::PythonError&) {
    throw py::error_already_set();
  }
  bindings::bind_functions(module);
  bindings::bind_waiting(module);
  bindings::bind_difference(module);
}
