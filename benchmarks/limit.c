/*
 * The floor that no container runtime can go below: the kernel's own price of one fresh container.
 *
 * usage: limit ROOTFS
 *
 * For each byte on standard input: one process in fresh mount, PID, network, IPC, UTS and cgroup namespaces (and a user
 * namespace where the caller is not root), an overlay of ROOTFS with a writable tmpfs, /proc, /dev, /sys, pivot_root(2),
 * /bin/true executed in it and reaped. Answers with the milliseconds on a line. No seccomp, no capabilities, no
 * checks: what is left out is what a runtime adds.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FAILED 99
#define SPACES (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

static const struct device { const char *name; unsigned major, minor; } DEVICES[] = {
    {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
};

static void check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "limit: %s: %s\n", what, strerror(errno));
        _exit(FAILED);
    }
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    check(fd, path);
    check((int)write(fd, text, strlen(text)), path);
    close(fd);
}

/* The caller's own id as root, and no other: user_namespaces(7). */
static void map_one_id(uid_t uid, gid_t gid)
{
    char line[64];
    write_file("/proc/self/setgroups", "deny");
    snprintf(line, sizeof line, "0 %u 1", uid);
    write_file("/proc/self/uid_map", line);
    snprintf(line, sizeof line, "0 %u 1", gid);
    write_file("/proc/self/gid_map", line);
}

static void make_devices(int rootless)
{
    char inside[64], outside[64];
    for (size_t i = 0; i < sizeof DEVICES / sizeof *DEVICES; i++) {
        const struct device *device = &DEVICES[i];
        snprintf(inside, sizeof inside, "dev/%s", device->name);
        if (!rootless) {
            check(mknod(inside, S_IFCHR | 0666, makedev(device->major, device->minor)), inside);
            continue;
        }
        snprintf(outside, sizeof outside, "/dev/%s", device->name);
        int fd = open(inside, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        check(fd, inside);
        close(fd);
        check(mount(outside, inside, NULL, MS_BIND, NULL), inside);
    }
}

static int contained(const char *rootfs, int rootless, uid_t uid, gid_t gid)
{
    char options[4096];
    int status;

    if (rootless)
        map_one_id(uid, gid);
    check(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), "private /");
    check(mount("tmpfs", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"), "tmpfs");
    check(mkdir("/mnt/upper", 0755) | mkdir("/mnt/work", 0755) | mkdir("/mnt/root", 0755), "mkdir");
    snprintf(options, sizeof options, "lowerdir=%s,upperdir=/mnt/upper,workdir=/mnt/work,userxattr", rootfs);
    check(mount("overlay", "/mnt/root", "overlay", 0, options), "overlay");
    check(chdir("/mnt/root"), "chdir");
    check(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "proc");
    check(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755"), "dev");
    make_devices(rootless);
    check(mount("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), "sys");
    check((int)syscall(SYS_pivot_root, ".", "."), "pivot_root");
    check(umount2(".", MNT_DETACH), "detach");
    check(chdir("/"), "chdir /");

    pid_t command = fork();
    check(command, "fork");
    if (command == 0) {
        execl("/bin/true", "true", (char *)NULL);
        check(-1, "/bin/true");
    }
    check(waitpid(command, &status, 0), "waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}

static double milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

int main(int count, char **words)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    int rootless = uid != 0, status;
    char request;

    if (count != 2) {
        fprintf(stderr, "usage: limit ROOTFS\n");
        return 2;
    }
    while (read(STDIN_FILENO, &request, 1) == 1) {
        double begin = milliseconds();
        /* clone(2) by itself: glibc's wrapper wants a stack of its own. */
        pid_t child = (pid_t)syscall(SYS_clone, SPACES | (rootless ? CLONE_NEWUSER : 0) | SIGCHLD, 0, 0, 0, 0);
        check(child, "clone");
        if (child == 0)
            _exit(contained(words[1], rootless, uid, gid));
        check(waitpid(child, &status, 0), "waitpid");
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            return 1;
        printf("%.4f\n", milliseconds() - begin);
        fflush(stdout);
    }
    return 0;
}
