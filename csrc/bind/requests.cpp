// pykernels._requests: the request loops of requests.h for Python, with the GIL released while they run.
#include "requests.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using pk::Step;

namespace {

py::array_t<int64_t> to_array(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(py::ssize_t(values.size()), values.data());
}

py::array_t<int64_t> closed_loop(const pk::Cuda* cuda, std::vector<Step> steps, int64_t calls) {
  std::vector<int64_t> latency;
  {
    py::gil_scoped_release release;
    latency = pk::Requests(cuda, std::move(steps)).closed(calls);
  }
  return to_array(latency);
}

py::array_t<int64_t> open_loop(const pk::Cuda* cuda, std::vector<Step> steps, int64_t calls, double rate, uint64_t seed) {
  std::vector<int64_t> latency;
  {
    py::gil_scoped_release release;
    latency = pk::Requests(cuda, std::move(steps)).open(calls, rate, seed);
  }
  return to_array(latency);
}

// [(lowest ns of the bin, count)] of the bins that are not empty, rising.
std::vector<std::pair<int64_t, int64_t>> histogram(const std::vector<int64_t>& latency) {
  std::map<int64_t, int64_t> counts;
  for (int64_t ns : latency) ++counts[pk::bin_of(ns)];
  std::vector<std::pair<int64_t, int64_t>> found;
  for (auto [bin, count] : counts) found.emplace_back(pk::bin_low(bin), count);
  return found;
}

Step step(Step::Kind kind, uint64_t a = 0, uint64_t b = 0, uint64_t n = 0, std::string args = {}) {
  return Step{kind, a, b, n, std::move(args)};
}

}  // namespace

PYBIND11_MODULE(_requests, m) {
  m.doc() = "Timed requests: closed loop and open loop, over libcuda.so.1 opened at run time or over functions.";
  py::class_<Step>(m, "Step");
  py::class_<pk::Cuda>(m, "Cuda")
      .def(py::init<const std::string&, uint64_t, uint64_t>(), py::arg("library"), py::arg("context"), py::arg("stream"))
      .def("launch", [](const pk::Cuda&, uint64_t function, uint64_t grid, uint64_t block, const py::bytes& args) {
        return step(Step::LAUNCH, function, grid, block, args);
      })
      .def("graph", [](const pk::Cuda&, uint64_t graph) { return step(Step::GRAPH, graph); })
      .def("to_device", [](const pk::Cuda&, uint64_t to, uint64_t from, uint64_t n) { return step(Step::TO_DEVICE, to, from, n); })
      .def("to_host", [](const pk::Cuda&, uint64_t to, uint64_t from, uint64_t n) { return step(Step::TO_HOST, to, from, n); })
      .def("wait", [](const pk::Cuda&) { return step(Step::WAIT); })
      .def("next", [](const pk::Cuda&) { return step(Step::NEXT); }, "Ends one request of several that take turns.")
      .def("closed_loop", [](const pk::Cuda& c, std::vector<Step> s, int64_t calls) { return closed_loop(&c, std::move(s), calls); },
           py::arg("steps"), py::arg("calls"))
      .def("open_loop", [](const pk::Cuda& c, std::vector<Step> s, int64_t calls, double rate, uint64_t seed) {
             return open_loop(&c, std::move(s), calls, rate, seed);
           }, py::arg("steps"), py::arg("calls"), py::arg("rate"), py::arg("seed"));
  py::class_<pk::Program>(m, "Program")
      .def(py::init([](const pk::Cuda& cuda, std::vector<Step> steps) { return new pk::Program(&cuda, std::move(steps)); }),
           py::arg("cuda"), py::arg("steps"), py::keep_alive<1, 2>())
      .def_property_readonly("after", [](pk::Program& p) {
        return py::make_tuple(reinterpret_cast<uintptr_t>(&pk::Program::run), reinterpret_cast<uintptr_t>(&p));
      }, "(function, data): a C function void(void*) that makes the steps once, and what it is called with.")
      .def_property_readonly("error", &pk::Program::error, "What went wrong in a call, or \"\".");
  m.def("ask", [](uint64_t request, uint64_t answer) { return step(Step::ASK, request, answer); },
        "A step: write the next number at `request`, wait for it at `answer` (addresses of 32-bit words).");
  m.def("call", [](uint64_t function, uint64_t data) { return step(Step::CALL, function, data); },
        "A step: call the C function void(void*) at `function` with `data`.");
  m.def("closed_loop", [](std::vector<Step> s, int64_t calls) { return closed_loop(nullptr, std::move(s), calls); },
        py::arg("steps"), py::arg("calls"), "Nanoseconds of each request, one in flight.");
  m.def("open_loop", [](std::vector<Step> s, int64_t calls, double rate, uint64_t seed) {
          return open_loop(nullptr, std::move(s), calls, rate, seed);
        }, py::arg("steps"), py::arg("calls"), py::arg("rate"), py::arg("seed"),
        "Nanoseconds from each Poisson arrival to its answer; waiting counts.");
  m.def("histogram", &histogram, py::arg("latency"), "[(lowest ns of a bin, count)], bins at most 0.8% wide.");
}
