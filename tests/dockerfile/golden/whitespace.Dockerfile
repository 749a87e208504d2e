
	  FROM   scratch   AS   x  
RUN a \  
b\\
RUN c\
   
	# gone
  d \
\
   e
COPY	a	b
  ENV	k	v	w  
RUN echo \\\
RUN f
