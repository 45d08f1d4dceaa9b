-- What time it is: in microseconds, and in whole milliseconds.
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2]
local now = (us - us % 1000) / 1000

