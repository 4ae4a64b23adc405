// pykernels._core: opens the kernel library of an ISA level, lists its table, and runs and times its entries on a pinned
// team with the GIL released. Nothing here knows a kernel.
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>

#include "arena.h"
#include "build_info.h"
#include "cycle.h"
#include "isa.h"
#include "loops.h"
#include "random.h"
#include "timed.h"

namespace py = pybind11;

namespace pk {

// Poisoned outputs: not a number in every floating-point type, an unlikely value in every integer type, never zero.
constexpr uint64_t kPoison = 0xFFF5FFF5FFF5FFF5ull;
constexpr int64_t kPage = 4096;

// The folder of the level libraries: beside this module.
std::string native_folder() {
  Dl_info info{};
  if (!dladdr(reinterpret_cast<void*>(&native_folder), &info) || !info.dli_fname) throw std::runtime_error("dladdr failed");
  std::string path = info.dli_fname;
  return path.substr(0, path.rfind('/') + 1) + "_native";
}

// The table of a level's library, opened once a process and never unloaded: an index stays an index of the same table even
// where the file is replaced. Loading runs none of a library's code but the function that returns the table.
const pk_library* open_table(const std::string& isa, const std::string& path) {
  static std::map<std::string, const pk_library*> opened;  // used with the GIL held
  if (auto found = opened.find(isa); found != opened.end()) return found->second;
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error("ISA level \"" + isa + "\" is not part of this build: " + dlerror());
  auto get = reinterpret_cast<const pk_library* (*)()>(dlsym(handle, "pk_library_v1"));
  if (!get || get()->abi != PK_ABI) throw std::runtime_error(path + " was built for another version of pykernels");
  return opened[isa] = get();
}

// A level's table, and what this machine lacks to run it.
class Library {
 public:
  explicit Library(const std::string& isa)
      : path(native_folder() + "/libpk_" + isa + ".so"), missing(why_not(isa)), table(open_table(isa, path)) {}
  const pk_entry& entry(int64_t index) const {
    if (index < 0 || index >= table->count) throw py::index_error("no such entry");
    return table->entry[index];
  }
  const pk_entry& runnable(int64_t index) const {
    if (!missing.empty())
      throw std::runtime_error(std::string("ISA level ") + table->isa + " cannot run here: this machine lacks " + missing);
    return entry(index);
  }

  std::string path, missing;
  const pk_library* table;
};

py::dict describe(const pk_entry& e, int64_t index) {
  py::dict d;
  d["index"] = index;
  d["kernel"] = e.kernel, d["op"] = e.op, d["dtype"] = e.dtype, d["variant"] = e.variant, d["symbol"] = e.symbol;
  d["tunes"] = py::tuple(py::cast(std::vector<int64_t>(e.tunes, e.tunes + (e.tunes ? e.ntunes : 0))));
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(e.run), &info);
  d["address"] = reinterpret_cast<uintptr_t>(e.run) - reinterpret_cast<uintptr_t>(info.dli_fbase);
  return d;
}

py::list entries(const std::string& isa) {
  Library library(isa);
  py::list all;
  for (int64_t i = 0; i < library.table->count; ++i) all.append(describe(library.entry(i), i));
  return all;
}

char* inside(const Arena& arena, int64_t offset, int64_t bytes) {
  if (offset < 0 || bytes < 0 || offset + bytes > arena.bytes()) throw py::value_error("outside of the arena");
  return arena.data() + offset;
}

void fill_arena(Team& team, Arena& arena, int64_t offset, int64_t count, const std::string& dtype, bool integers,
                uint64_t seed, double low, double high) {
  const double size = dtype == "int4" ? 0.5 : dtype == "fp64" || dtype == "int64" ? 8 : dtype == "fp32" || dtype == "int32" ? 4
                    : dtype == "fp16" || dtype == "bf16" ? 2 : 1;
  char* p = inside(arena, offset, int64_t(double(count) * size + 0.5));
  const Distribution d{integers, seed, low, high};
  if (!fill(p, dtype, d, 0, 0)) throw py::value_error("no " + std::string(integers ? "integers" : "uniform") + " fill of dtype " + dtype);
  team.run([&](Team& t, int tid) {
    int64_t lo, hi;
    pk_share(count, int64_t(kPage / size), tid, t.threads(), &lo, &hi);
    fill(p, dtype, d, lo, hi);
  });
}

// Fills `blocks` blocks of `rows` rows: in each, one random cycle; every word of a row is the address of the next row. A
// block is written by the thread that owns it.
void fill_cycle(Team& team, Arena& arena, int64_t offset, int64_t blocks, int64_t rows, int64_t words, uint64_t seed) {
  if (blocks < 1 || rows < 1 || words < 1) throw py::value_error("a cycle needs at least one row of one word");
  char* p = inside(arena, offset, blocks * rows * words * 8);
  const Cycle cycle{uint64_t(rows), seed};
  team.run([&](Team& t, int tid) {
    int64_t lo, hi;
    pk_share(blocks, 1, tid, t.threads(), &lo, &hi);
    for (int64_t block = lo; block < hi; ++block) {
      uint64_t* base = reinterpret_cast<uint64_t*>(p) + block * rows * words;
      for (int64_t row = 0; row < rows; ++row)
        std::fill_n(base + row * words, words, reinterpret_cast<uint64_t>(base + int64_t(cycle.next(uint64_t(row))) * words));
    }
  });
}

void poison_arena(Team& team, Arena& arena, int64_t offset, int64_t bytes) {
  char* p = inside(arena, offset, bytes);
  team.run([&](Team& t, int tid) {
    int64_t lo, hi;
    pk_share(bytes, kPage, tid, t.threads(), &lo, &hi);
    for (int64_t i = lo; i < hi; i += 8) memcpy(p + i, &kPoison, size_t(std::min<int64_t>(8, hi - i)));
  });
}

Call make_call(const std::vector<uintptr_t>& pointers, std::vector<int64_t> dims, std::vector<double> scalars, int64_t tune) {
  Call call;
  for (uintptr_t p : pointers) call.ptr.push_back(reinterpret_cast<void*>(p));
  call.dim = std::move(dims), call.scalar = std::move(scalars), call.tune = tune;
  return call;
}

py::tuple sample(Team& team, const Library& library, int64_t index, const std::vector<uintptr_t>& pointers,
                 std::vector<int64_t> dims, std::vector<double> scalars, int64_t tune, int64_t reps, int64_t count,
                 int64_t first, const std::vector<int>& counters) {
  if (reps < 1 || count < 1) throw py::value_error("reps and count are at least 1");
  const pk_entry& entry = library.runnable(index);
  Call call = make_call(pointers, std::move(dims), std::move(scalars), tune);
  call.first = first;
  Samples s;
  {
    py::gil_scoped_release free;
    s = sample_entry(team, entry, call, reps, count, counters);
  }
  return py::make_tuple(s.seconds, s.cpu_over_wall, s.switches, s.clock, s.skew);
}

// Nanoseconds of each of `calls` requests, then the lowest thread's CPU time over wall time and all involuntary switches.
// Thread 0 of the team is the server: it takes a request, starts the others at a barrier, does its share of the pass, and
// has answered when all have met again and `after`, a void(void*) where there is one, has sent the results where they are
// wanted. Poisson arrivals of `rate` a second; rate 0: one in flight.
py::tuple serve(Team& team, const Library& library, int64_t index, const std::vector<uintptr_t>& pointers,
                std::vector<int64_t> dims, std::vector<double> scalars, int64_t tune, int64_t calls, int64_t first,
                double rate, uint64_t seed, uintptr_t after, uintptr_t after_data) {
  if (calls < 1 || rate < 0) throw py::value_error("calls are at least 1, a rate is not below 0");
  const pk_entry& entry = library.runnable(index);
  const Call call = make_call(pointers, std::move(dims), std::move(scalars), tune);
  std::vector<int64_t> latency, switches(team.threads());
  std::vector<double> share(team.threads());
  {
    py::gil_scoped_release free;
    reserve_scratch(team, entry, call);
    team.counter() = 0;
    int64_t number = first;  // written by thread 0 between two barriers
    bool over = false;
    team.run([&](Team& t, int tid) {
      const pk_team view = t.view(tid);
      auto pass = [&] {
        t.barrier().wait();
        if (over) return false;
        const pk_call c = call.at(1, number);
        entry.run(&c, &view);
        t.barrier().wait();
        return true;
      };
      int64_t wall = -now_ns(), cpu = -now_ns(CLOCK_THREAD_CPUTIME_ID);
      switches[tid] = -involuntary_switches();
      if (tid == 0) {
        auto request = [&] {
          pass();
          if (after) reinterpret_cast<void (*)(void*)>(after)(reinterpret_cast<void*>(after_data));
          t.counter() = 0;
          ++number;
        };
        latency = rate > 0 ? open_loop(request, calls, rate, seed) : closed_loop(request, calls);
        over = true;
        pass();
      } else {
        while (pass()) {
        }
      }
      wall += now_ns(), cpu += now_ns(CLOCK_THREAD_CPUTIME_ID);
      share[tid] = double(cpu) / double(std::max<int64_t>(1, wall));
      switches[tid] += involuntary_switches();
    });
  }
  int64_t all = 0;
  for (int64_t n : switches) all += n;
  return py::make_tuple(latency, *std::min_element(share.begin(), share.end()), all);
}

double team_clock(Team& team) {
  std::vector<double> ghz(team.threads());
  team.run([&](Team&, int tid) {
    for (int i = 0; i < 20; ++i) ghz[tid] = std::max(ghz[tid], clock_ghz());
  });
  double sum = 0;
  for (double g : ghz) sum += g;
  return sum / double(ghz.size());
}

}  // namespace pk

PYBIND11_MODULE(_core, m) {
  using namespace pk;
  using Free = py::call_guard<py::gil_scoped_release>;
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) std::rethrow_exception(p);
    } catch (const std::system_error& e) {  // OSError with its number
      PyErr_SetObject(PyExc_OSError, py::make_tuple(e.code().value(), e.what()).ptr());
    }
  });
  m.doc() = "Native kernels of pykernels: ISA levels, arena, pinned team, timed loop.";
  m.attr("COMPILER") = PK_COMPILER;
  m.attr("POISON") = kPoison;
  py::dict flags;
  for (const auto& level : pk_built_levels) flags[level.isa] = level.flags;
  m.attr("FLAGS") = flags;

  m.def("built_isas", [] {
    std::vector<std::string> names;
    for (const auto& level : pk_built_levels) names.push_back(level.isa);
    return names;
  });
  m.def("supported_isas", [] {
    std::vector<std::string> names;
    for (const auto& level : pk_built_levels)
      if (why_not(level.isa).empty()) names.push_back(level.isa);
    return names;
  });
  m.def("missing", &why_not, py::arg("isa"));
  m.def("tlb_entries", &tlb_entries, py::arg("large"));
  m.def("entries", &entries, py::arg("isa"));
  m.def("clock_ghz", &clock_ghz, Free());

  py::class_<Library>(m, "Library")
      .def(py::init([](const std::string& isa) {
             auto library = std::make_unique<Library>(isa);
             if (!library->missing.empty()) library->runnable(0);
             return library;
           }), py::arg("isa"))
      .def_readonly("path", &Library::path)
      .def_property_readonly("isa", [](const Library& l) { return l.table->isa; })
      .def_property_readonly("vector_bytes", [](const Library& l) { return l.table->vector_bytes; });

  py::class_<Arena>(m, "Arena", py::buffer_protocol())
      .def(py::init<int64_t, bool, int>(), py::arg("bytes"), py::arg("huge") = true, py::arg("node") = -1)
      .def_property_readonly("address", [](const Arena& a) { return reinterpret_cast<uintptr_t>(a.data()); })
      .def_property_readonly("bytes", &Arena::bytes)
      .def_buffer([](Arena& a) {
        return py::buffer_info(a.data(), 1, py::format_descriptor<uint8_t>::format(), a.bytes());
      });

  py::class_<Team>(m, "Team")
      .def(py::init<std::vector<int>>(), py::arg("cpus"), Free())
      .def_property_readonly("threads", &Team::threads)
      .def_property_readonly("cpus", &Team::cpus)
      .def("fill", &fill_arena, py::arg("arena"), py::arg("offset"), py::arg("count"), py::arg("dtype"),
           py::arg("integers"), py::arg("seed"), py::arg("low"), py::arg("high"), Free())
      .def("fill_cycle", &fill_cycle, py::arg("arena"), py::arg("offset"), py::arg("blocks"), py::arg("rows"),
           py::arg("words"), py::arg("seed"), Free())
      .def("poison", &poison_arena, py::arg("arena"), py::arg("offset"), py::arg("bytes"), Free())
      .def("run", [](Team& team, const Library& library, int64_t index, const std::vector<uintptr_t>& pointers,
                     std::vector<int64_t> dims, std::vector<double> scalars, int64_t tune, int64_t reps) {
             const pk_entry& entry = library.runnable(index);
             const Call call = make_call(pointers, std::move(dims), std::move(scalars), tune);
             py::gil_scoped_release free;
             run_entry(team, entry, call, reps);
           }, py::arg("library"), py::arg("index"), py::arg("pointers"), py::arg("dims"), py::arg("scalars"),
           py::arg("tune"), py::arg("reps"))
      .def("sample", &sample, py::arg("library"), py::arg("index"), py::arg("pointers"), py::arg("dims"),
           py::arg("scalars"), py::arg("tune"), py::arg("reps"), py::arg("count"), py::arg("first") = 0,
           py::arg("counters") = std::vector<int>())
      .def("serve", &serve, py::arg("library"), py::arg("index"), py::arg("pointers"), py::arg("dims"),
           py::arg("scalars"), py::arg("tune"), py::arg("calls"), py::arg("first") = 0, py::arg("rate") = 0.0,
           py::arg("seed") = 1, py::arg("after") = 0, py::arg("after_data") = 0)
      .def("clock_ghz", &team_clock, Free())
      .def("close", &Team::close, Free());
}
