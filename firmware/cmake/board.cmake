# Read port/boards/<KF_BOARD>.json into variables, and make board.h and board.ld of them.
#
# The Python side reads the same file (kilofed.boards.catalogue), so a number stands once. Sets, for the caller:
#   KF_BOARD_PORT    folder under port/
#   KF_BOARD_CORE    the core's name; KF_BOARD_FLAGS: its compiler flags, a list
#   KF_BOARD_LD      the generated linker script
#   KF_BOARD_ETHERNET  the controller's folder under port/, when KF_LINK is ethernet
# and adds the folder of board.h to the include path.

set(board_file "${CMAKE_CURRENT_SOURCE_DIR}/port/boards/${KF_BOARD}.json")
if(NOT EXISTS "${board_file}")
  file(GLOB known RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}/port/boards" "${CMAKE_CURRENT_SOURCE_DIR}/port/boards/*.json")
  string(REPLACE ".json" "" known "${known}")
  message(FATAL_ERROR "there is no board ${KF_BOARD}: choose one of ${known}, or add its data file (PORTING.md)")
endif()
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${board_file}")
file(READ "${board_file}" board_json)

# kf_board(VARIABLE member...): one number or word of the file; absent is an error that names it.
function(kf_board variable)
  string(JSON value ERROR_VARIABLE problem GET "${board_json}" ${ARGN})
  if(problem)
    message(FATAL_ERROR "${board_file}: ${problem}")
  endif()
  set(${variable} "${value}" PARENT_SCOPE)
endfunction()

kf_board(board_name name)
if(NOT board_name STREQUAL KF_BOARD)
  message(FATAL_ERROR "${board_file}: name is ${board_name}, which must be the file's own")
endif()
kf_board(board_title title)
kf_board(KF_BOARD_PORT port)
kf_board(KF_BOARD_CORE core name)
string(JSON flags GET "${board_json}" core flags)
string(JSON last LENGTH "${flags}")
math(EXPR last "${last} - 1")
set(KF_BOARD_FLAGS "")
foreach(index RANGE ${last})
  string(JSON flag GET "${flags}" ${index})
  list(APPEND KF_BOARD_FLAGS "${flag}")
endforeach()

kf_board(clock_hz clock_hz value)
kf_board(baud uart baud)
# For ports that serve several memory maps; elsewhere the port knows, and the numbers are 0.
foreach(name IN ITEMS address irq clock_hz)
  string(JSON uart_${name} ERROR_VARIABLE absent GET "${board_json}" uart ${name})
  if(absent)
    set(uart_${name} 0)
  endif()
endforeach()
if(NOT uart_clock_hz)
  set(uart_clock_hz "${clock_hz}")
endif()
set(ethernet_address 0)
set(ethernet_irq 0)
set(line_ring KF_BOARD_RX_RING)
if(KF_LINK STREQUAL ethernet)
  set(line_ring 16u) # nobody has to type fast
  kf_board(KF_BOARD_ETHERNET ethernet controller)
  kf_board(ethernet_address ethernet address)
  kf_board(ethernet_irq ethernet irq)
elseif(NOT KF_LINK STREQUAL serial)
  message(FATAL_ERROR "KF_LINK is ${KF_LINK}: serial or ethernet")
endif()
kf_board(flash_origin flash origin)
kf_board(flash_size flash size)
kf_board(ram_origin ram origin)
kf_board(ram_size ram size)
foreach(name IN ITEMS stack_bytes max_frame rx_ring tx_ring ring_slots held_out_every max_batch exact_updates settings_address)
  kf_board(${name} ${name} value)
endforeach()
kf_board(samples_address samples address)
kf_board(samples_size samples size)

# The image may grow up to the first thing that is placed in flash by others: settings, and samples where they are there.
math(EXPR flash_end "${flash_origin} + ${flash_size}")
set(image_end "${flash_end}")
foreach(place IN ITEMS ${settings_address} ${samples_address})
  math(EXPR place "${place}")
  if(place GREATER_EQUAL flash_origin AND place LESS image_end)
    set(image_end "${place}")
  endif()
endforeach()
math(EXPR image_limit "${image_end} - ${flash_origin}")

configure_file("${CMAKE_CURRENT_LIST_DIR}/board.h.in" "${CMAKE_CURRENT_BINARY_DIR}/generated/board.h" @ONLY)
configure_file("${CMAKE_CURRENT_LIST_DIR}/board.ld.in" "${CMAKE_CURRENT_BINARY_DIR}/generated/board.ld" @ONLY)
set(KF_BOARD_LD "${CMAKE_CURRENT_BINARY_DIR}/generated/board.ld")
include_directories("${CMAKE_CURRENT_BINARY_DIR}/generated")
