# Link images of the core, the Cortex-M port and the board's chip: `bare`, without a model, and `image`, with KF_MODEL.
#
# Both consist of the same objects, so the bare image tells to the byte what any model will need (kilofed.boards.fit).

add_library(port OBJECT
  port/cortexm/fault.c
  port/bare/line.c
  port/bare/main.c
  port/cortexm/startup.c
  port/${KF_BOARD_PORT}/chip.c
)
target_include_directories(port PRIVATE port/bare port/cortexm)
target_compile_options(port PRIVATE ${KF_WARNINGS})
target_link_libraries(port PRIVATE kilofed)
if(KF_LINK STREQUAL ethernet)
  include(cmake/net.cmake)
else()
  target_sources(port PRIVATE port/bare/pipe.c)
endif()

include(port/${KF_BOARD_PORT}/port.cmake OPTIONAL) # what a chip needs beside chip.c

# The template must stay compilable, for every core.
if(NOT KF_BOARD_PORT STREQUAL template)
  add_library(template OBJECT port/template/chip.c)
  target_include_directories(template PRIVATE port/bare port/cortexm include)
  target_compile_options(template PRIVATE ${KF_WARNINGS})
endif()

function(kf_image target)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE port kilofed)
  target_link_options(${target} PRIVATE
    ${KF_BOARD_FLAGS} -nostartfiles --specs=nano.specs -T${KF_BOARD_LD}
    -Wl,--gc-sections -Wl,-Map=$<TARGET_FILE:${target}>.map -Wl,--fatal-warnings -Wl,--no-warn-rwx-segments)
  set_target_properties(${target} PROPERTIES SUFFIX .elf LINK_DEPENDS ${KF_BOARD_LD})
endfunction()

kf_image(bare)

if(KF_MODEL)
  cmake_path(ABSOLUTE_PATH KF_MODEL BASE_DIRECTORY "${CMAKE_SOURCE_DIR}" NORMALIZE)
  set_source_files_properties(port/bare/model.S PROPERTIES
    COMPILE_DEFINITIONS "KF_MODEL_FILE=\"${KF_MODEL}\";KF_POOL_BYTES=${KF_POOL_BYTES}" OBJECT_DEPENDS "${KF_MODEL}")
  kf_image(image port/bare/model.S)
endif()
