// Runs flows through SimGrid: what `simgrid.py` compiles and our models are compared with.
//
// Standard input, all numbers: workers, bytes per second of a card (0: none), latency of a link in
// seconds; count, then source, destination, bytes per second of each direction of a link; count, then
// second, source, destination, bytes of each flow, in order of time; two moments. Standard output: when
// each flow ended, then the processor seconds that this took; or, if the second moment is above 0, only
// the processor seconds from the first moment to the second, both after the last flow's start.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <simgrid/s4u.hpp>
#include <string>
#include <vector>

namespace sg4 = simgrid::s4u;

struct Flow {
  double at_s;
  int src, dst;
  unsigned long bytes;
};

static double processor_s()
{
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

static std::vector<sg4::Host*> build(sg4::NetZone* zone)
{
  int workers, links;
  double nic_Bps, latency_s;
  std::cin >> workers >> nic_Bps >> latency_s;
  std::vector<sg4::Host*> hosts;
  std::vector<sg4::Link*> up, down;
  for (int i = 0; i < workers; i++) {
    const std::string name = std::to_string(i);
    hosts.push_back(zone->create_host(name, 1e9)->seal());
    if (nic_Bps > 0) {
      up.push_back(zone->create_link("up" + name, nic_Bps)->set_latency(0)->seal());
      down.push_back(zone->create_link("down" + name, nic_Bps)->set_latency(0)->seal());
    }
  }
  std::cin >> links;
  for (int i = 0; i < links; i++) {
    int src, dst;
    double rate_Bps;
    std::cin >> src >> dst >> rate_Bps;
    auto* link = zone->create_link("link" + std::to_string(i), rate_Bps)->set_latency(latency_s)->seal();
    std::vector<sg4::LinkInRoute> route{sg4::LinkInRoute(link)};
    if (nic_Bps > 0) {
      route.emplace_back(up[src]);
      route.emplace_back(down[dst]);
    }
    zone->add_route(hosts[src]->get_netpoint(), hosts[dst]->get_netpoint(), nullptr, nullptr, route, false);
  }
  zone->seal();
  return hosts;
}

static std::vector<Flow> read_flows()
{
  int count;
  std::cin >> count;
  std::vector<Flow> flows(count);
  for (auto& flow : flows)
    std::cin >> flow.at_s >> flow.src >> flow.dst >> flow.bytes;
  return flows;
}

int main(int argc, char** argv)
{
  sg4::Engine engine(&argc, argv);
  const auto hosts = build(sg4::create_full_zone("net"));
  const auto flows = read_flows();
  double from_s, till_s;
  std::cin >> from_s >> till_s;
  std::vector<double> ends_s(flows.size());
  std::vector<sg4::CommPtr> comms;
  sg4::Actor::create("starter", hosts[0], [&] {
    for (const auto& flow : flows) {
      sg4::this_actor::sleep_until(flow.at_s);
      comms.push_back(sg4::Comm::sendto_async(hosts[flow.src], hosts[flow.dst], flow.bytes));
    }
    if (till_s > 0) {
      sg4::this_actor::sleep_until(from_s);
      const double begin_s = processor_s();
      sg4::this_actor::sleep_until(till_s);
      std::printf("%.17g\n", processor_s() - begin_s);
      std::fflush(stdout);
      std::_Exit(0);
    }
    for (size_t i = 0; i < comms.size(); i++) {
      comms[i]->wait();
      ends_s[i] = comms[i]->get_finish_time();
    }
  });
  const double begin_s = processor_s();
  engine.run();
  const double taken_s = processor_s() - begin_s;
  for (double end_s : ends_s)
    std::printf("%.17g\n", end_s);
  std::printf("%.17g\n", taken_s);
}
