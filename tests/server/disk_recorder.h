/* A disk that loses power. All that the store does to its folder is recorded: its own calls (the
 * linker wraps them) and SQLite's (a VFS in front of SQLite's own). From that, folders are made as
 * a disk may have them after a crash at any moment: what was synced is there, and of the rest any
 * subset, torn at any sector.
 *
 * A file's writes and cuts are durable once it is synced; names in a folder once the folder is. In
 * a folder that was not synced a name may be there or not, whatever happened to others before it.
 */
#ifndef SERVER_DISK_RECORDER_H
#define SERVER_DISK_RECORDER_H

#include <stdbool.h>
#include <stdint.h>

/* From now on everything below the folder, which is empty, is recorded. Syncs are not made, here
 * and in disk_crash's folders: nobody pulls our plug. */
void disk_record(const char *folder);
void disk_stop(void);
/* How many operations were recorded so far. */
int disk_position(void);

/* Makes the empty folder `target` as the disk had it after `position` operations and a crash.
 * Positions must not go down between calls. */
void disk_crash(const char *target, int position, uint64_t *random);
/* Between 0 and below - 1. */
uint32_t disk_random(uint64_t *random, uint32_t below);
/* Removes what is in a folder. */
void disk_empty(const char *folder);

#endif
