# The engine without the device around it, compiled for the board's core and run on an emulated MPS board, for
# kilofed.profiling: `bench` is what is counted and weighed, `profile` also tells which operator runs. Not part of `all`.

# Where the machines have memory: code, model (2 MB), RAM (3 MB, and 1 MB for the job behind it).
if(KF_BOARD_CORE STREQUAL cortex-m33) # AN505 (DAI 0505): the secure aliases of 4 MB SSRAM 1, and of 4 MB SSRAM 2 and 3
  set(bench_code 0x10000000)
  set(bench_code_size 2M)
  set(bench_model 0x10200000)
  set(bench_ram 0x38000000)
elseif(KF_BOARD_CORE STREQUAL cortex-m55) # AN547 (DAI 0547): 512 KB ITCM; DDR4 for all else
  set(bench_code 0x00000000)
  set(bench_code_size 512K)
  set(bench_model 0x60000000)
  set(bench_ram 0x61000000)
else() # AN385, AN386, AN500 (DAI 0385, memory map): 4 MB SSRAM 1, and 4 MB SSRAM 2 and 3
  set(bench_code 0x00000000)
  set(bench_code_size 2M)
  set(bench_model 0x00200000)
  set(bench_ram 0x20000000)
endif()
set(bench_ld "${CMAKE_CURRENT_BINARY_DIR}/generated/bench.ld")
configure_file("${CMAKE_CURRENT_SOURCE_DIR}/bench/bench.ld.in" "${bench_ld}" @ONLY)

function(kf_bench target)
  add_executable(${target} EXCLUDE_FROM_ALL bench/main.c ${ARGN})
  target_compile_options(${target} PRIVATE ${KF_WARNINGS})
  target_link_libraries(${target} PRIVATE kilofed)
  target_link_options(${target} PRIVATE
    ${KF_BOARD_FLAGS} -nostartfiles --specs=nano.specs -T${bench_ld}
    -Wl,--gc-sections -Wl,-Map=$<TARGET_FILE:${target}>.map -Wl,--fatal-warnings -Wl,--no-warn-rwx-segments)
  set_target_properties(${target} PROPERTIES SUFFIX .elf LINK_DEPENDS ${bench_ld})
endfunction()

kf_bench(bench)
kf_bench(profile bench/profile.c)
target_link_options(profile PRIVATE -Wl,--wrap=kf_op_work)
