# Files inside the program: made into C arrays at build time by this script alone, which runs itself
# with cmake -P. Needs no other tool and makes 200 KB in well under a second.
#
# sd35_embed(TARGET NAME FOLDER FILES a.html b/c.js ...) adds to TARGET a source that defines
#   const struct embedded_file NAME[] = {...}; const size_t NAME_count;
# of src/server/embedded_file.h, with each file's path below FOLDER, type and hash.

set(SD35_EMBED_SCRIPT ${CMAKE_CURRENT_LIST_FILE})

function(sd35_embed target name folder)
  cmake_parse_arguments(ARG "" "" "FILES" ${ARGN})
  get_filename_component(folder ${folder} ABSOLUTE)
  set(output ${CMAKE_CURRENT_BINARY_DIR}/${name}.c)
  set(inputs ${ARG_FILES})
  list(TRANSFORM inputs PREPEND ${folder}/)
  list(JOIN ARG_FILES "|" joined)
  add_custom_command(
    OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -D NAME=${name} -D FOLDER=${folder} -D FILES=${joined}
            -D OUTPUT=${output} -P ${SD35_EMBED_SCRIPT}
    DEPENDS ${inputs} ${SD35_EMBED_SCRIPT}
    COMMENT "Embedding ${name}"
    VERBATIM)
  target_sources(${target} PRIVATE ${output})
endfunction()

# The Content-Type by a file's ending.
function(sd35_embed_type out file)
  set(.html "text/html; charset=utf-8")
  set(.css "text/css; charset=utf-8")
  set(.js "text/javascript; charset=utf-8")
  set(.json "application/json")
  set(.svg "image/svg+xml")
  set(.png "image/png")
  set(.txt "text/plain; charset=utf-8")
  set(.webmanifest "application/manifest+json")
  get_filename_component(ending ${file} LAST_EXT)
  if(NOT DEFINED ${ending})
    message(FATAL_ERROR "embed.cmake knows no type for '${file}'")
  endif()
  set(${out} "${${ending}}" PARENT_SCOPE)
endfunction()

function(sd35_embed_write)
  string(REPLACE "|" ";" files "${FILES}")
  string(REPEAT "[0-9a-f]" 32 line)
  set(arrays "")
  set(rows "")
  set(number 0)
  foreach(file IN LISTS files)
    sd35_embed_type(type ${file})
    file(SHA256 ${FOLDER}/${file} hash)
    string(SUBSTRING ${hash} 0 32 hash)
    file(READ ${FOLDER}/${file} hex HEX)
    string(LENGTH "${hex}" digits)
    math(EXPR size "${digits} / 2")
    string(REGEX REPLACE "(${line})" "\\1\n" hex "${hex}")
    string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
    # An empty array is not C: a zero follows that is not counted.
    string(APPEND arrays "static const unsigned char file_${number}[] = {\n${hex}0};\n")
    string(APPEND rows "    {\"${file}\", \"${type}\", \"\\\"${hash}\\\"\", file_${number}, ${size}},\n")
    math(EXPR number "${number} + 1")
  endforeach()
  file(WRITE ${OUTPUT}
    "/* Made by cmake/embed.cmake. */\n#include \"server/embedded_file.h\"\n\n${arrays}\n"
    "extern const struct embedded_file ${NAME}[];\nextern const size_t ${NAME}_count;\n\n"
    "const struct embedded_file ${NAME}[] = {\n${rows}};\nconst size_t ${NAME}_count = ${number};\n")
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  sd35_embed_write()
endif()
