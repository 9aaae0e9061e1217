/*
 * The daemon's log: lines on stderr, with the journal's <N> priority prefix when stderr is the journal.
 *
 * One line a message, "pandod: " in front where there is no journal to say so. Levels are syslog's (LOG_ERR, ...);
 * what is above the level set is dropped. Any thread.
 */
#ifndef NODE_DAEMON_LOG_H
#define NODE_DAEMON_LOG_H

#include <syslog.h>

void daemon_log_open(void); /* sees where stderr leads */
void daemon_log_level(int level);
void daemon_log(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
