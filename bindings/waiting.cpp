#include "bindings/waiting.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "bindings/errors.h"
#include "bindings/key_codec.h"
#include "bindings/paths.h"

namespace py = pybind11;

namespace theus::bindings {
namespace {

Imported retry_class{"theus.errors", "_Retry"};

EngineObject* engine_of(const py::object& object) {
  if (!PyObject_TypeCheck(object.ptr(), engine_type)) {
    raise(PyExc_TypeError, "an engine is needed, not %.100s", Py_TYPE(object.ptr())->tp_name);
  }
  return reinterpret_cast<EngineObject*>(object.ptr());
}

worker::WatchedPath encode_path(PyObject* path) {
  Ref keys = parse_path(path);
  worker::WatchedPath encoded;
  for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(keys.get()); ++i) {
    encoded.emplace_back(EncodedKey(PyTuple_GET_ITEM(keys.get(), i), nullptr).view());
  }
  return encoded;
}

std::unique_ptr<Target> make_target(const py::object& engine, const py::tuple& paths) {
  std::vector<worker::WatchedPath> encoded;
  for (py::handle path : paths) encoded.push_back(encode_path(path.ptr()));
  return std::make_unique<Target>(attached_session(engine_of(engine)), std::move(encoded));
}

}  // namespace

py::tuple Target::look(std::uint64_t since) const {
  std::uint64_t version = 0;
  std::vector<std::size_t> changed;
  {
    worker::Snapshot newest(attached_->session);
    version = newest.version();
    if (const auto* paths = std::get_if<std::vector<worker::WatchedPath>>(&what_)) {
      for (std::size_t i = 0; i < paths->size(); ++i) {
        if (worker::changed_since(newest, (*paths)[i], since)) changed.push_back(i);
      }
    } else if (std::get<worker::ReadSet>(what_).changed(newest)) {
      changed.push_back(0);
    }
  }
  py::tuple indices(changed.size());
  for (std::size_t i = 0; i < changed.size(); ++i) indices[i] = changed[i];
  return py::make_tuple(version, indices);
}

void Target::add_interests(const worker::Snapshot& snapshot, worker::Interests* interests) const {
  if (const auto* paths = std::get_if<std::vector<worker::WatchedPath>>(&what_)) {
    for (const worker::WatchedPath& path : *paths) worker::add_interests(snapshot, path, interests);
  } else {
    std::get<worker::ReadSet>(what_).add_interests(interests);
  }
}

Waiter::Waiter(EngineObject* engine)
    : attached_(attached_session(engine)), wait_(attached_->session) {}

void Waiter::require_open() const {
  if (closed_) {
    raise(ErrorClass::kTheus, "the engine was closed while something waited for a change");
  }
}

void Waiter::arm(const py::list& targets) {
  require_open();
  worker::Interests interests;
  {
    worker::Snapshot newest(attached_->session);
    for (py::handle target : targets) target.cast<Target&>().add_interests(newest, &interests);
  }
  wait_.arm(interests);
}

bool Waiter::sleep(double seconds) {
  require_open();
  const double slice = std::clamp(seconds, 0.0, kSliceS);
  PyThreadState* saved = PyEval_SaveThread();
  wait_.sleep(static_cast<std::uint64_t>(slice * 1e9));
  take_gil(saved);
  check(PyErr_CheckSignals());
  require_open();
  return wait_.woken();
}

void Waiter::close() {
  closed_ = true;
  wait_.wake();
}

void raise_retry(ContextObject* context) {
  if (context->holder == nullptr) {
    raise(ErrorClass::kTheus,
          "ctx.retry() needs a transaction that can be run again, and this is a snapshot; use "
          "engine.wait() or engine.watch()");
  }
  if (!context->may_retry) {
    raise(ErrorClass::kTheus,
          "ctx.retry() works where the transaction can be run again: inside of engine.run(), "
          "engine.run_async(), engine.attempts() or a function of engine.process()");
  }
  worker::ReadSet reads = transaction_of(context).read_set();
  if (reads.empty()) {
    raise(ErrorClass::kTheus,
          "ctx.retry() waits until something changes that the transaction has read, and it has "
          "read nothing yet");
  }
  py::object target = py::cast(std::make_unique<Target>(attached_of(context), std::move(reads)));
  Ref error = call(retry_class.get(), target.ptr());
  doom_context(context, error.get());
  PyErr_SetObject(retry_class.get(), error.get());
  throw PythonError{};
}

Ref retry_target(ContextObject* context, PyObject* error) {
  PyObject* doom = context->doom;
  if (doom == nullptr || (error != nullptr && error != doom)) return Ref();
  if (reinterpret_cast<PyObject*>(Py_TYPE(doom)) != retry_class.get()) return Ref();
  return Ref::check(PyObject_GetAttrString(doom, "target"));
}

void bind_waiting(py::module_& module) {
  py::class_<Target>(module, "Target")
      .def(py::init(&make_target), py::arg("engine"), py::arg("paths"))
      .def("look", &Target::look, py::arg("since"));
  py::class_<Waiter>(module, "Waiter")
      .def(py::init([](const py::object& engine) {
             return std::make_unique<Waiter>(engine_of(engine));
           }),
           py::arg("engine"))
      .def("arm", &Waiter::arm, py::arg("targets"))
      .def("sleep", &Waiter::sleep, py::arg("seconds"))
      .def("wake", &Waiter::wake)
      .def("close", &Waiter::close)
      .def("disarm", &Waiter::disarm);
}

}  // namespace theus::bindings
