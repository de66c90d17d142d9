# The engine without the device around it, compiled for the board's core and run on an emulated MPS2: what tests/bench
# counts and weighs. Not part of `all`.
add_executable(bench EXCLUDE_FROM_ALL bench/main.c)
target_compile_options(bench PRIVATE ${KF_WARNINGS})
target_link_libraries(bench PRIVATE kilofed)
set(bench_ld "${CMAKE_CURRENT_SOURCE_DIR}/bench/bench.ld")
target_link_options(bench PRIVATE
  ${KF_BOARD_FLAGS} -nostartfiles --specs=nano.specs -T${bench_ld}
  -Wl,--gc-sections -Wl,-Map=$<TARGET_FILE:bench>.map -Wl,--fatal-warnings -Wl,--no-warn-rwx-segments)
set_target_properties(bench PROPERTIES SUFFIX .elf LINK_DEPENDS ${bench_ld})
