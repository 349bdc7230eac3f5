#include "bindings/difference.h"

#include "bindings/context.h"
#include "bindings/errors.h"
#include "bindings/key_codec.h"
#include "bindings/node.h"
#include "bindings/paths.h"
#include "worker/difference.h"

namespace py = pybind11;

namespace theus::bindings {
namespace {

const worker::Snapshot& snapshot_behind(const py::object& root) {
  Node node = node_of(root.ptr());
  if (node.writable()) raise(PyExc_TypeError, "States are compared, not transactions");
  return snapshot_of(node.context);
}

const char* name_of(worker::Change change) {
  switch (change) {
    case worker::Change::kAdded:
      return "added";
    case worker::Change::kReplaced:
      return "replaced";
    default:
      return "removed";
  }
}

Ref spell(const std::vector<shm::KeyView>& path) {
  Ref keys = Ref::check(PyTuple_New(static_cast<Py_ssize_t>(path.size())));
  for (std::size_t i = 0; i < path.size(); ++i) {
    PyTuple_SET_ITEM(keys.get(), static_cast<Py_ssize_t>(i), decode_key(path[i]).release());
  }
  return spell_path(keys.get());
}

// {path: kind} of what differs between the snapshots behind two roots, the older one first.
py::dict difference(const py::object& older, const py::object& newer) {
  worker::Difference found(snapshot_behind(older), snapshot_behind(newer));
  py::dict changes;
  while (found.next()) {
    check(PyErr_CheckSignals());
    Ref path = spell(found.path());
    Ref kind = Ref::check(PyUnicode_InternFromString(name_of(found.change())));
    check(PyDict_SetItem(changes.ptr(), path.get(), kind.get()));
  }
  return changes;
}

}  // namespace

void bind_difference(py::module_& module) {
  module.def("difference", &difference, py::arg("older"), py::arg("newer"));
}

}  // namespace theus::bindings
