/* Everything that somebody outside can make large, each named once. */
#ifndef SERVER_LIMITS_H
#define SERVER_LIMITS_H

#define HTTP_LINE_BYTES_MAX 8192
#define HTTP_HEADER_BYTES_MAX 16384
#define HTTP_HEADERS_MAX 64
#define HTTP_JSON_BYTES_MAX (1 << 20)          /* of a JSON body without pictures */
#define HTTP_PICTURE_BODY_BYTES_MAX (48 << 20) /* of a body with pictures in base64 */
#define HTTP_MULTIPART_PARTS_MAX 64
#define JSON_DEPTH_MAX 16
#define JSON_KEYS_MAX 256 /* in all objects of a body together: 4096 */
#define JSON_VALUES_MAX 4096
#define IMAGE_FILE_BYTES_MAX (16 << 20)
#define IMAGE_PIXELS_MAX (16 << 20)
#define CONNECTIONS_MAX 12000
#define CONNECTIONS_PER_ADDRESS_MAX 256 /* loopback and trusted proxies exempt */
#define HEADER_SECONDS_MAX 10           /* from the first byte to the end of the headers */
#define BODY_SECONDS_MAX 60
#define BODY_BYTES_PER_SECOND_MIN 1024
#define IDLE_SECONDS_MAX 60
#define WRITE_STALL_SECONDS_MAX 30
#define STREAM_BYTES_MAX 65536 /* that a slow reader of events may have waiting */
#define STREAM_BEAT_SECONDS 10
#define HELD_SECONDS_MAX 60 /* for a finished picture that cannot be written */
#define HELD_PAUSE_SECONDS_MAX 8
#define HELD_PICTURE_BYTES_MAX ((size_t)256 << 20) /* of all that are held */
#define EVENTS_KEPT 4096                           /* for Last-Event-ID */
#define RECENT_JOBS_KEPT 2048                      /* that ended, in memory */
#define LOGIN_FAILURES_PER_MINUTE_MAX 10           /* of an address */
#define SESSION_SECONDS (14 * 86400)
#define ENDED_SESSIONS_MAX 64 /* of a credential, that are known one by one */
#define SIGNED_URL_SECONDS 3600

#endif
