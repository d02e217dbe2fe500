# Stop the supervisor of a host's folder and all that it started; wait until it is so. Run with sh -s HOME SUPERVISORCTL.
# Says "stopped" if there was something to stop.
home=$1 supervisorctl=$2
socket=$home/supervisord.sock

# All processes of this folder have its name in their environment: also those that a killed supervisor left behind.
find_processes() {
    processes=
    for file in $(grep -lzxF "FLOWERBED_HOME=$home" /proc/[0-9]*/environ 2>/dev/null); do
        file=${file#/proc/}
        processes="$processes ${file%/environ}"
    done
}

find_processes
[ -n "$processes" ] || [ -S "$socket" ] || exit 0
echo stopped
{ cd "$home" && "$supervisorctl" -c supervisord.conf shutdown; } >/dev/null 2>&1 || kill $processes 2>/dev/null
for tick in $(seq 150); do
    find_processes
    [ -n "$processes" ] || break
    [ "$tick" -ne 100 ] || kill -KILL $processes 2>/dev/null
    sleep 0.2
done
if [ -n "$processes" ]; then
    echo "processes$processes do not end, even after SIGKILL" >&2
    exit 1
fi
rm -f "$socket" "$home/supervisord.pid"
