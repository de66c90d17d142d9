# The pipe over a network: lwIP, what drives it (port/net), and the board's controller. Included for KF_LINK=ethernet.

set(lwip "${deps}/lwip/src")
add_library(lwip STATIC
  ${lwip}/core/def.c
  ${lwip}/core/inet_chksum.c
  ${lwip}/core/init.c
  ${lwip}/core/ip.c
  ${lwip}/core/ipv4/dhcp.c
  ${lwip}/core/ipv4/etharp.c
  ${lwip}/core/ipv4/icmp.c
  ${lwip}/core/ipv4/ip4.c
  ${lwip}/core/ipv4/ip4_addr.c
  ${lwip}/core/mem.c
  ${lwip}/core/memp.c
  ${lwip}/core/netif.c
  ${lwip}/core/pbuf.c
  ${lwip}/core/tcp.c
  ${lwip}/core/tcp_in.c
  ${lwip}/core/tcp_out.c
  ${lwip}/core/timeouts.c
  ${lwip}/core/udp.c
  ${lwip}/netif/ethernet.c
)
target_include_directories(lwip SYSTEM PUBLIC ${lwip}/include port/net)
target_compile_options(lwip PRIVATE -w)

target_sources(port PRIVATE
  port/net/netif.c
  port/net/pipe.c
  port/net/say.c
  port/${KF_BOARD_ETHERNET}/${KF_BOARD_ETHERNET}.c
)
target_include_directories(port PRIVATE port/net)
target_link_libraries(port PRIVATE lwip)
