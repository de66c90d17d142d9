# The second stage: assembled alone, sealed with its CRC, and put in front of the vectors.
math(EXPR vectors "${flash_origin} + 0x100" OUTPUT_FORMAT HEXADECIMAL)
math(EXPR header "${flash_origin} + 0x200" OUTPUT_FORMAT HEXADECIMAL) # header_align behind 42 vectors
set(stage "${CMAKE_CURRENT_BINARY_DIR}/second_stage")
set(here "${CMAKE_CURRENT_SOURCE_DIR}/port/rp2040")
add_custom_command(OUTPUT "${stage}.bin"
  COMMAND "${CMAKE_C_COMPILER}" -mcpu=cortex-m0plus -mthumb -DKF_VECTORS_ADDRESS=${vectors} -DKF_HEADER_ADDRESS=${header}
          -nostdlib -Wl,-Ttext=0x20041F00 -Wl,-e0x20041F01 -o "${stage}.elf" "${here}/second_stage.S"
  COMMAND "${CMAKE_OBJCOPY}" -O binary -j .text "${stage}.elf" "${stage}.raw"
  COMMAND "${Python3_EXECUTABLE}" "${here}/crc.py" "${stage}.raw" "${stage}.bin"
  DEPENDS "${here}/second_stage.S" "${here}/crc.py" VERBATIM)
set_source_files_properties(port/rp2040/start.S PROPERTIES
  COMPILE_DEFINITIONS "KF_SECOND_STAGE_FILE=\"${stage}.bin\"" OBJECT_DEPENDS "${stage}.bin")
target_sources(port PRIVATE port/rp2040/start.S)
