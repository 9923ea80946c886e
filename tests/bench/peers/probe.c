/* The job of the benchmarks: says when its first instruction ran, in nanoseconds since 1970, and which job it is.
 *
 *   probe FILE NUMBER
 *
 * A line has a fixed length and goes out in one write(2), so that 2,000 of these may share a file, and its size tells
 * how many have run.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct timespec now;
    char line[64];
    int file, length;

    clock_gettime(CLOCK_REALTIME, &now);
    if (argc != 3)
        return 2;
    length = snprintf(line, sizeof line, "%019lld %06d\n", (long long)now.tv_sec * 1000000000 + now.tv_nsec,
                      atoi(argv[2]));
    file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    return file < 0 || write(file, line, length) != length;
}
